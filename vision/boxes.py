"""Boxes as the host's BOUNDING_BOX writes them, {"x", "y", "width", "height"} in pixels, and as corners [n, 4]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Box = dict[str, Any]


def per_frame(boxes: Any, frames: int, label: str = "boxes") -> list[list[Box]]:
    """The boxes of each frame, from any of the forms that the host's nodes give.

    Args:
        boxes: a box (for all frames), a list of them (for all frames), or a list with one list a
            frame; the last frame's go on where there are fewer lists than frames.
        frames: how many frames there are.
        label: the input's name, for the errors.

    Raises:
        ValueError: something else.
    """
    if isinstance(boxes, Mapping):
        boxes = [[boxes]]
    elif isinstance(boxes, Sequence) and boxes and all(isinstance(box, Mapping) for box in boxes):
        boxes = [boxes]
    if not isinstance(boxes, Sequence) or not all(isinstance(row, Sequence) for row in boxes):
        raise ValueError(f"{label}: expected boxes as BOUNDING_BOX gives them, but got {type(boxes).__name__}.")
    rows = [[_checked(box, label) for box in row] for row in boxes] or [[]]
    return [rows[min(i, len(rows) - 1)] for i in range(frames)]


def _checked(box: Any, label: str) -> Box:
    keys = ("x", "y", "width", "height")
    if not isinstance(box, Mapping) or not all(isinstance(box.get(key), (int, float)) for key in keys):
        raise ValueError(f"{label}: a box needs numbers x, y, width and height, but got {box!r}.")
    return dict(box)


def corners(boxes: Sequence[Box]) -> Tensor:
    """[n, 4] x1, y1, x2, y2."""
    rows = [[box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]] for box in boxes]
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def from_corners(box: Sequence[float] | Tensor, **more: Any) -> Box:
    """A box of the host's form; ``more`` is what else to write into it, such as label and score."""
    x1, y1, x2, y2 = (float(value) for value in box)
    return {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1, **more}


def inside(box: Box, height: int, width: int) -> Box | None:
    """The part of a box that lies on the frame; None where there is none."""
    x1, y1 = max(0.0, box["x"]), max(0.0, box["y"])
    x2, y2 = min(float(width), box["x"] + box["width"]), min(float(height), box["y"] + box["height"])
    return {**box, "x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1} if x2 > x1 and y2 > y1 else None


def around(mask: Tensor, threshold: float = 0.5) -> Tensor | None:
    """The tight box [4] around a mask [height, width]; None where the mask is empty."""
    found = mask > threshold
    rows, columns = found.any(1).nonzero()[:, 0], found.any(0).nonzero()[:, 0]
    if not len(rows):
        return None
    return torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()
