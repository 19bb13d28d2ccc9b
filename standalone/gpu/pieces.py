"""What a piece of ``gpu`` is, and what it gives."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

#: No piece may run longer, so that each fits where commands are cut off after ten minutes.
LONGEST = 570.0


@dataclass(frozen=True)
class Compared:
    """One number beside what was predicted and what was aimed at.

    Args:
        what: the number's name.
        unit: such as "GiB", "s", "x".
        measured, predicted, goal: None where there is none.
        higher: whether more is better.
    """

    what: str
    unit: str
    measured: float
    predicted: float | None = None
    goal: float | None = None
    higher: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        if self.goal is None:
            return None
        return self.measured >= self.goal if self.higher else self.measured <= self.goal

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}


@dataclass(frozen=True)
class Run:
    """Where a piece runs.

    Args:
        tiny: rehearse on the CPU, with sizes that take seconds.
        folder: for files of its own, kept between calls.
    """

    tiny: bool
    folder: Path


@dataclass(frozen=True)
class Outcome:
    """What a piece found: free numbers, and those that are compared."""

    numbers: Mapping[str, Any] = field(default_factory=dict)
    compared: tuple[Compared, ...] = ()


class NotRun(Exception):
    """The piece cannot run here; the text says because of what."""


@dataclass(frozen=True)
class Piece:
    """One piece of work.

    Args:
        name: also of its file.
        title: one line for the page.
        work: does it, given ``Run`` and ``settings``; imports what is heavy by itself.
        needs: modules that must be there, by import name.
        settings: its further keywords.
        least: seconds below which it is not worth beginning.
    """

    name: str
    title: str
    work: Callable[..., Outcome]
    needs: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    least: float = 60.0

    def run(self, where: Run) -> Outcome:
        """Do it.

        Raises:
            NotRun: something that it needs is missing.
        """
        missing = [name for name in self.needs if importlib.util.find_spec(name) is None]
        if missing:
            words = ", ".join(missing)
            raise NotRun(f"{words} {'is' if len(missing) == 1 else 'are'} not installed; bring wheels (--wheels DIR)")
        return self.work(where, **self.settings)
