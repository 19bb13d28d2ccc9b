"""Rows of a contact sheet: a clip's source, what the methods made of it, and the true answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from textwrap import fill
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from .cases import Case

#: Letters in a line beside a row.
LINE = 30


def right_and_near(row: dict[str, Any]) -> str:
    """Two lines of numbers that say how good an edit is."""
    return f"edit right {row['edit_accuracy']:.0%}\n{row['psnr_truth']:.1f} dB to the truth"


def clip_strips(
    case: Case, edits: Iterable[tuple[str, dict[str, Any], Tensor]], stride: int = 1,
    caption: Callable[[dict[str, Any]], str] = right_and_near, addition: str = "",
) -> list[tuple[str, str, Tensor]]:  # fmt: skip
    """What ``contact_sheet`` draws of one clip.

    Args:
        edits: of each method its name, its measured row, and its frames [F, H, W, 3] in 0..1.
        stride: one in so many frames is shown.
        caption: the numbers beside an edit.
        addition: said behind the instruction.
    """
    return [
        ("source", fill(case.source.caption, LINE), case.source.frames[::stride]),
        *((name, caption(row), frames[::stride]) for name, row, frames in edits),
        ("true answer", fill(case.edit.instruction + addition, LINE), case.truth.frames[::stride]),
    ]
