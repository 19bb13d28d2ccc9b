"""Clips and prompts -> masks, in chunks of frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .boxes import Box, corners
from .segmentation.prompt import Prompt, Segmenter, segment_frame

Progress = Callable[[int], None]


@torch.no_grad()
def masks_of(segmenter: Segmenter, frames: Tensor, prompts: Sequence[Sequence[Prompt]], chunk: int = 4,
             progress: Progress | None = None) -> tuple[Tensor, list[float]]:
    """What is asked for in each frame, joined.

    Args:
        segmenter: on its device.
        frames: IMAGE [n, height, width, 3].
        prompts: those of each frame, none where there is nothing to look for.
        chunk: frames that are encoded at once.
        progress: called with the number of frames done.

    Returns:
        masks [n, height, width] of 0 and 1, and for each frame the lowest score of its objects, 0
        where there is none.
    """
    masks, scores = torch.zeros(frames.shape[:3]), [0.0] * len(frames)
    asked = [i for i, row in enumerate(prompts) if row]
    for start in range(0, len(asked), chunk):
        part = asked[start : start + chunk]
        for i, features in zip(part, segmenter.encode(frames[part])):
            found = [segment_frame(segmenter, features, prompt) for prompt in prompts[i]]
            masks[i] = torch.cat([one.masks[:, 0] > 0 for one in found]).any(0).float().cpu()
            scores[i] = min(one.scores.min().item() for one in found)
        if progress:
            progress(start + len(part))
    return masks, scores


def box_prompts(boxes: Sequence[Sequence[Box]]) -> list[list[Prompt]]:
    """One prompt a frame for all of its boxes."""
    return [[Prompt(boxes=corners(row))] if row else [] for row in boxes]


def filled(boxes: Sequence[Sequence[Box]], height: int, width: int) -> Tensor:
    """Masks [frames, height, width] of the boxes themselves, whole pixels that they touch."""
    out = torch.zeros(len(boxes), height, width)
    for mask, row in zip(out, boxes):
        for x1, y1, x2, y2 in corners(row).tolist():
            mask[max(0, int(y1)) : -int(-y2 // 1), max(0, int(x1)) : -int(-x2 // 1)] = 1
    return out


def point_prompts(positive: Sequence[tuple[float, float]], negative: Sequence[tuple[float, float]],
                  boxes: Sequence[Box]) -> list[Prompt]:
    """Clicks and boxes on one frame: all points are of one object, as is a single box with them; several boxes are an
    object each, beside that of the points."""
    points = [*positive, *negative]
    labels = [1.0] * len(positive) + [0.0] * len(negative)
    clicks: dict[str, Any] = {}
    if points:
        clicks = {"points": torch.tensor(points, dtype=torch.float32)[None], "labels": torch.tensor(labels)[None]}
    if len(boxes) <= 1 and (points or boxes):
        return [Prompt(boxes=corners(boxes) if boxes else None, **clicks)]
    return [*([Prompt(**clicks)] if points else []), *([Prompt(boxes=corners(boxes))] if boxes else [])]


def parsed_points(text: str, label: str, height: int, width: int) -> list[tuple[float, float]]:
    """Points from the JSON that the host's SAM 3 nodes and point editors write, [{"x": 10, "y": 20}], or typed as
    ``10,20; 30,40``.

    Raises:
        ValueError: it reads otherwise, or a point lies outside of the frame.
    """
    import json

    text = text.strip()
    if not text:
        return []
    wrong = (f"{label}: expected points such as 10,20; 30,40 or [{{\"x\": 10, \"y\": 20}}], but got {text[:60]!r}.")
    try:
        if text[0] in "[{":
            rows = json.loads(text)
            points = [(float(row["x"]), float(row["y"])) for row in (rows if isinstance(rows, list) else [rows])]
        else:
            points = [tuple(map(float, part.split(","))) for part in text.split(";") if part.strip()]  # type: ignore
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(wrong) from error
    for point in points:
        if len(point) != 2:
            raise ValueError(wrong)
        if not (0 <= point[0] <= width and 0 <= point[1] <= height):
            raise ValueError(f"{label}: the point {point[0]:g},{point[1]:g} lies outside of the frame of "
                             f"{width}x{height}; click or type one inside.")
    return points


def parsed_boxes(text: str, label: str, height: int, width: int) -> list[Box]:
    """Boxes from JSON, [{"x": 1, "y": 2, "width": 3, "height": 4}], or typed as ``x,y,width,height; ...``.

    Raises:
        ValueError: it reads otherwise, or a box lies outside of the frame.
    """
    import json

    text = text.strip()
    if not text:
        return []
    keys = ("x", "y", "width", "height")
    try:
        if text[0] in "[{":
            rows = json.loads(text)
            boxes = [{key: float(row[key]) for key in keys} for row in (rows if isinstance(rows, list) else [rows])]
        else:
            boxes = [dict(zip(keys, map(float, part.split(",")), strict=True)) for part in text.split(";")
                     if part.strip()]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{label}: expected boxes such as 10,20,64,48 (x, y, width, height; a semicolon between "
                         f"two), but got {text[:60]!r}.") from error
    check_inside(boxes, label, height, width)
    return boxes


def check_inside(boxes: Sequence[Box], label: str, height: int, width: int) -> None:
    """Raise ValueError where a box has no pixel of the frame."""
    from .boxes import inside

    for box in boxes:
        if inside(box, height, width) is None:
            shown = ",".join(f"{box[key]:g}" for key in ("x", "y", "width", "height"))
            raise ValueError(f"{label}: the box {shown} (x, y, width, height) has no pixel of the frame of "
                             f"{width}x{height}; draw one on it.")
