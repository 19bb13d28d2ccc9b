"""What a benchmark is asked for: its rows and clips, checked, and where finished rows and numbers go."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .report import write_json


def chosen_of(asked: Iterable[str], known: Collection[str], name: str = "methods") -> list[str]:
    """What was asked for, each once, in its order.

    Args:
        name: of the option, for what is said.

    Raises:
        ValueError: one that is not known.
    """
    chosen = list(dict.fromkeys(asked))
    if unknown := [one for one in chosen if one not in known]:
        raise ValueError(f"{name}: there is no {', '.join(unknown)}; there are {', '.join(known)}.")
    return chosen


def count_of(clips: int | None, default: int) -> int:
    """How many clips.

    Raises:
        ValueError: none.
    """
    count = default if clips is None else clips
    if count < 1:
        raise ValueError(f"clips: at least 1 is needed, but got {count}.")
    return count


def scale_of(steps: float) -> float:
    """The scale of the published steps.

    Raises:
        ValueError: it is not positive.
    """
    if not steps > 0:
        raise ValueError(f"steps: the scale must be above 0, but got {steps}.")
    return steps


@contextmanager
def rows_folder(json_path: Path | None) -> Iterator[Path]:
    """Where finished rows lie: NAME.rows beside the numbers, with which a benchmark goes on; else a temporary one."""
    if json_path is not None:
        yield Path(json_path).with_suffix(".rows")
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def written(report: dict[str, Any], json_path: Path | None) -> dict[str, Any]:
    """``report``, which is in the file now, where one was named.

    Raises:
        OSError, ValueError: as ``report.write_json`` does.
    """
    if json_path is not None:
        write_json(json_path, report)
        print(f"numbers: {json_path}")
    return report
