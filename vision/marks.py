"""Clicks and boxes on several frames and objects, as one line of text: ``10,20; 30,40 | 12: 5,6 | 12#2: 7,8``.

Parts are divided by ``|``. A part may begin with its frame, its object, or both, and a colon: ``12:``, ``#2:``,
``12#2:``. Without a frame it is of the node's own, without an object of the first. Instead of text, JSON rows may
have the keys "frame" and "object".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .boxes import Box
from .masks import parsed_boxes, parsed_points, point_prompts
from .segmentation.prompt import Prompt, Segmenter, segment_frame

#: How a part begins, where it does: its frame, its object.
HEAD = re.compile(r"\s*(\d*)\s*(?:#\s*(\d+))?\s*:(.*)", re.DOTALL)
Place = tuple[int, int]


@dataclass
class Marks:
    """What is clicked of one object in one frame, in pixels."""

    positive: list[tuple[float, float]] = field(default_factory=list)
    negative: list[tuple[float, float]] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)

    def prompts(self) -> list[Prompt]:
        """What to ask a segmenter; nothing where it is only said what the object is not."""
        asked = self.positive or self.boxes
        return point_prompts(self.positive, self.negative, self.boxes) if asked else []


def _parts(text: str) -> Iterator[tuple[int | None, int, str]]:
    """(frame or None, object, its points or boxes) of each part of the text."""
    if text.strip()[:1] in ("[", "{"):
        try:
            rows = json.loads(text)
            rows = rows if isinstance(rows, list) else [rows]
            places = [(row.get("frame"), int(row.get("object", 1))) for row in rows]
            for place in dict.fromkeys(places):
                part = json.dumps([row for row, at in zip(rows, places) if at == place])
                yield None if place[0] is None else int(place[0]), place[1], part
            return
        except (ValueError, TypeError, AttributeError):
            # The reader of points or boxes says what it expected.
            pass
        yield None, 1, text
        return
    for part in text.split("|"):
        head = HEAD.fullmatch(part)
        frame, number, rest = head.groups() if head else ("", None, part)
        if rest.strip():
            yield int(frame) if frame else None, int(number or 1), rest


def marks_of(positive: str, negative: str, boxes: str, frame: int, frames: int, height: int,
             width: int) -> dict[Place, Marks]:
    """The marks by (frame, object), in this order.

    Args:
        positive, negative, boxes: texts as above.
        frame: where parts without a frame belong.
        frames, height, width: the clip's size.

    Raises:
        ValueError: a text reads otherwise, or names what is not in the clip.
    """
    found: dict[Place, Marks] = {}
    for label, text, parsed in (("positive", positive, parsed_points), ("negative", negative, parsed_points),
                                ("boxes", boxes, parsed_boxes)):
        for at, number, part in _parts(text):
            at = frame if at is None else at
            if not 0 <= at < frames:
                raise ValueError(f"{label}: there is no frame {at} in a clip of {frames}; use 0 to {frames - 1}.")
            if number < 1:
                raise ValueError(f"{label}: objects are counted from 1, but got #{number}.")
            marks = found.setdefault((at, number), Marks())
            getattr(marks, label).extend(parsed(part, label, height, width))
    return dict(sorted(found.items()))


@torch.no_grad()
def masks_of_marks(segmenter: Segmenter, clip: Tensor,
                   marks: Mapping[Place, Marks]) -> dict[Place, tuple[Tensor, float]]:
    """A mask [height, width] of 0 and 1 and its lowest score for each (frame, object) that asks for one.

    Args:
        segmenter: on its device; each frame is encoded once.
        clip: IMAGE [frames, height, width, 3].
        marks: of ``marks_of``.
    """
    found, encoded, features = {}, None, None
    for (at, number), one in sorted(marks.items()):
        prompts = one.prompts()
        if not prompts:
            continue
        if encoded != at:
            encoded, features = at, segmenter.encode(clip[at : at + 1])[0]
        answers = [segment_frame(segmenter, features, prompt) for prompt in prompts]
        mask = torch.cat([answer.masks[:, 0] > 0 for answer in answers]).any(0).float().cpu()
        found[at, number] = mask, min(answer.scores.min().item() for answer in answers)
    return found


def arranged(masks: Mapping[Place, Tensor], frame: int, height: int, width: int) -> tuple[
        list[int], Tensor, dict[int, tuple[list[int], Tensor]], list[Place]]:
    """Masks by (frame, object) as nodes hand them on.

    Args:
        masks: [height, width] each.
        frame: the one that is named where there is no mask.

    Returns:
        the frames; the masks of all objects joined [frames, height, width]; by object its own frames
        and their masks; and which (frame, object) the joined masks lack.
    """
    frames, objects = sorted({at for at, _ in masks}) or [frame], sorted({number for _, number in masks}) or [1]
    empty = torch.zeros(height, width)

    def at(frames: list[int], number: int) -> Tensor:
        return torch.stack([masks.get((one, number), empty) for one in frames])

    joined = torch.stack([at(frames, number) for number in objects]).amax(0)
    own = {number: [one for one, other in masks if other == number] or [frame] for number in objects}
    lacking = [(one, number) for one in frames for number in objects if masks and (one, number) not in masks]
    return frames, joined, {number: (rows, at(rows, number)) for number, rows in own.items()}, lacking
