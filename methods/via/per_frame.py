"""One prompt a frame, as one CONDITIONING."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .root import same_length


def lines_of(text: str, frames: int | None, spread: bool) -> list[str]:
    """The prompt of every frame.

    Args:
        text: one line a frame; blank lines around the whole are no prompts.
        frames: of the clip; None where it is not known.
        spread: line i of n holds for the frames f with floor(f n / frames) = i.

    Raises:
        ValueError: no lines, or a number of them that does not fit the frames.
    """
    lines = [line.strip() for line in text.strip().splitlines()]
    if not lines:
        raise ValueError("text: holds no prompt; write one line a frame.")
    if spread and frames is None:
        raise ValueError("spread: the length of the clip is not known; connect images.")
    if frames is None or len(lines) == frames:
        return lines
    if len(lines) > frames or not spread:
        raise ValueError(f"text: holds {len(lines)} lines, but the clip has {frames} frames; write one line a frame, "
                         "or fewer with spread on.")
    return [lines[frame * len(lines) // frames] for frame in range(frames)]


def one_condition(encoded: Sequence[Any]) -> list[list[Any]]:
    """One CONDITIONING with a row for every one that is given.

    Raises:
        ValueError: one of them holds several conditions (a CLIP with scheduled hooks).
    """
    if any(len(conditioning) != 1 for conditioning in encoded):
        raise ValueError("clip: gives several conditions for one prompt (scheduled hooks); use a CLIP without them.")
    texts = same_length([conditioning[0][0] for conditioning in encoded])
    extra = dict(encoded[0][0][1])
    pooled = [conditioning[0][1].get("pooled_output") for conditioning in encoded]
    if all(isinstance(row, torch.Tensor) for row in pooled):
        extra["pooled_output"] = torch.cat(pooled)
    return [[torch.cat(texts), extra]]
