"""One prompt a frame, as one CONDITIONING."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .root import same_length

#: Of tokens that take part in attention, [rows, tokens]; none where all do.
MASK = "attention_mask"


def lines_of(text: str) -> list[str]:
    """The prompts of a text, one a line; blank lines around the whole are no prompts."""
    return [line.strip() for line in text.strip().splitlines()]


def rows_for(rows: int, frames: int | None, spread: bool, name: str = "text") -> list[int]:
    """Number of the row that holds for each frame.

    Args:
        rows: prompts there are.
        frames: of the clip; None where it is not known.
        spread: row i of n holds for the frames f with floor(f n / frames) = i.
        name: of the input that they come from, for what is said.

    Raises:
        ValueError: no rows, or a number of them that does not fit the frames.
    """
    if not rows:
        raise ValueError("text: holds no prompt; write one line a frame, or connect conditioning.")
    if spread and frames is None:
        raise ValueError("spread: the length of the clip is not known; connect images.")
    if frames is None or rows == frames:
        return list(range(rows))
    if rows > frames or not spread:
        raise ValueError(f"{name}: holds {rows} {'lines' if name == 'text' else 'rows'}, but the clip has {frames} "
                         "frames; give one a frame, or fewer with spread on.")
    return [frame * rows // frames for frame in range(frames)]


def rows_of(conditioning: Any) -> list[Any]:
    """The rows of a CONDITIONING, each as a CONDITIONING of its own: those of its first condition, then of the next."""
    found = []
    for text, extra in conditioning:
        for row in range(len(text)):
            own = {key: value[row : row + 1] if isinstance(value, Tensor) and len(text) == len(value) > 1 else value
                   for key, value in extra.items()}  # fmt: skip
            found.append([[text[row : row + 1], own]])
    return found


def one_condition(encoded: Sequence[Any]) -> list[list[Any]]:
    """One CONDITIONING with a row for every one that is given.

    Prompts of unlike lengths are repeated to one length, which attention without positions does not see. What else
    they hold is stacked where it is a tensor, and kept where it is the same for all.

    Raises:
        ValueError: one of them holds several conditions (a CLIP with scheduled hooks), or they differ in what has no
            rows.
    """
    if any(len(conditioning) != 1 for conditioning in encoded):
        raise ValueError("clip: gives several conditions for one prompt (scheduled hooks); use a CLIP without them.")
    texts, extras = zip(*(conditioning[0] for conditioning in encoded), strict=True)
    long = same_length(texts)
    stacked: dict[str, Any] = {}
    for key in dict.fromkeys(key for extra in extras for key in extra):
        values = [extra.get(key) for extra in extras]
        if key == MASK:
            stacked[key] = _masks(values, texts, long[0].shape[1])
        elif all(_same(value, values[0]) for value in values) and not _has_row(values[0]):
            stacked[key] = values[0]
        elif all(isinstance(value, Tensor) and value.shape == values[0].shape for value in values):
            stacked[key] = torch.cat(values)
        elif key != "pooled_output":  # a text encoder's that not all have: none is better than one of another frame
            raise ValueError(f"conditioning: {key} differs from frame to frame and has no row for each; give all "
                             "frames the same.")
    return [[torch.cat(long), stacked]]


def _masks(values: Sequence[Tensor | None], texts: Sequence[Tensor], tokens: int) -> Tensor:
    """[rows, tokens]: each prompt's mask, repeated as the prompt is; those without one are seen whole."""
    rows = [text.new_ones(text.shape[:2]) if value is None else value.reshape(1, -1) for value, text in
            zip(values, texts, strict=True)]  # fmt: skip
    kind = next(value.dtype for value in values if value is not None)
    return torch.cat([row.to(kind).repeat(1, tokens // row.shape[1]) for row in rows])


def _has_row(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a is b or a == b)
