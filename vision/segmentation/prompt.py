"""What a segmenter is asked and what it answers, in pixels of the frame."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Prompt:
    """``k`` objects of one frame, each asked for by what is given.

    boxes: [k, 4] x1, y1, x2, y2; points: [k, p, 2] x, y with labels [k, p], 1 inside the object
    and 0 outside of it; logits: [k, 1, m, m], a ``Prediction``'s, as a first guess. Pixels count
    from the frame's upper left corner.
    """

    boxes: Tensor | None = None
    points: Tensor | None = None
    labels: Tensor | None = None
    logits: Tensor | None = None

    @property
    def count(self) -> int:
        """k."""
        return len(next(part for part in (self.boxes, self.points, self.logits) if part is not None))

    @property
    def ambiguous(self) -> bool:
        """Whether it is one point an object: a shirt or its wearer? Then several masks are compared."""
        return self.boxes is None and self.logits is None and self.points is not None and self.points.shape[1] == 1

    def to(self, device: torch.device | str) -> Prompt:
        """The same on another device: float32, labels as whole numbers."""
        moved = {name: part.to(device, torch.int32 if name == "labels" else torch.float32)
                 for name, part in vars(self).items() if part is not None}
        return replace(self, **moved)


class Prediction(NamedTuple):
    """masks: logits [k, c, height, width] at the frame's size, above 0 inside; scores: [k, c], the
    model's guess of each mask's IoU; logits: [k, c, m, m], as the network gives them."""

    masks: Tensor
    scores: Tensor
    logits: Tensor

    def best(self) -> Prediction:
        """The mask with the highest score of each object: c = 1."""
        chosen = self.scores.argmax(1)
        rows = torch.arange(len(chosen), device=chosen.device)
        return Prediction(*(part[rows, chosen][:, None] for part in self))


class Segmenter(Protocol):
    """A promptable segmentation network. What ``encode`` returns is used by ``predict`` only."""

    module: nn.Module
    """All weights: the host moves them; the calls run where it is."""

    frame_bytes: int
    """About how much memory encoding a frame takes beside the weights."""

    def encode(self, frames: Tensor) -> list[Any]:
        """IMAGE [n, height, width, 3] in 0..1 -> the features of each frame, from one pass over all n."""

    def predict(self, features: Any, prompt: Prompt, multimask: bool = False) -> Prediction:
        """The objects of one frame; with ``multimask`` 3 masks each, else 1."""


@torch.no_grad()
def segment_frame(segmenter: Segmenter, features: Any, prompt: Prompt) -> Prediction:
    """One mask an object: of a single point the best of three, else the one that the network gives."""
    return segmenter.predict(features, prompt, multimask=prompt.ambiguous).best()
