"""A small text grounding for the toy world: "the red ball" -> its box, in a picture with other things.

Not Grounding DINO in small: its text encoder and deformable attention need more data and time than two cores have. A
phrase is the sum of its words' vectors, which modulates (FiLM) a few convolutions over the picture; each cell of 8
pixels then says how likely the centre of such a thing lies in it, and how far its box reaches (as in FCOS).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ..world.grammar import COLOURS, SHAPES, TEXTURES, vocabulary
from .tokenizer import BOS, EOS, VOCAB_SIZE, tokenize

SIDE, CELL = 128, 8


class Modulated(nn.Module):
    """x + conv(silu((1 + a) norm(conv x) + b)), with a, b from the phrase."""

    def __init__(self, width: int, words: int, dilation: int):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
        self.norm = nn.GroupNorm(8, width)
        self.film = nn.Linear(words, 2 * width)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor, phrase: torch.Tensor) -> torch.Tensor:
        scale, shift = self.film(phrase)[..., None, None].chunk(2, 1)
        return x + self.second(F.silu((1 + scale) * self.norm(self.first(x)) + shift))


class Grounder(nn.Module):
    """Pictures [B,3,128,128] in -1..1 and token ids [B,77] -> logits [B,g,g] and boxes [B,g,g,4] in pixels."""

    def __init__(self, width: int, depth: int):
        super().__init__()
        self.words = nn.Embedding(VOCAB_SIZE, width)
        self.phrase = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU())
        sizes = (3, width // 2, width, width)
        self.stem = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in zip(sizes, sizes[1:]))
        self.norms = nn.ModuleList(nn.GroupNorm(8, size) for size in sizes[1:])
        self.blocks = nn.ModuleList(Modulated(width, width, 1 + i % 2) for i in range(depth))
        self.head = nn.Conv2d(width, 5, 1)
        with torch.no_grad():
            self.head.bias[0] = -4.0  # most cells hold nothing

    def forward(self, pictures: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        spoken = (ids != BOS) & (ids != EOS)
        phrase = self.phrase((self.words(ids) * spoken[..., None]).sum(1))
        x = pictures
        for conv, norm in zip(self.stem, self.norms):
            x = F.silu(norm(conv(x)))
        for block in self.blocks:
            x = block(x, phrase)
        out = self.head(F.silu(x))
        reach = F.softplus(out[:, 1:]).movedim(1, -1) * 2 * CELL
        centre = centres(out.shape[-1]).to(out)
        return out[:, 0], torch.cat([centre - reach[..., :2], centre + reach[..., 2:]], -1)


def centres(cells: int) -> torch.Tensor:
    """x, y in pixels of the middle of each cell, [g,g,2]."""
    middle = (torch.arange(cells) + 0.5) * CELL
    return torch.stack(torch.meshgrid(middle, middle, indexing="xy"), -1)


def overlaps(boxes: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """IoU of boxes [...,4] with others [...,4], broadcast."""
    low, high = torch.maximum(boxes[..., :2], others[..., :2]), torch.minimum(boxes[..., 2:], others[..., 2:])
    both = (high - low).clamp(min=0).prod(-1)
    area = lambda b: (b[..., 2:] - b[..., :2]).clamp(min=0).prod(-1)  # noqa: E731
    return both / (area(boxes) + area(others) - both).clamp(min=1e-6)


class ToyDetector:
    """The grounder with ``vision.grounding.Detector``'s two members that nodes use."""

    frame_bytes = 2**22

    def __init__(self, module: Grounder):
        self.module = module.eval().requires_grad_(False)

    @torch.no_grad()
    def detect(self, frames: torch.Tensor, text: str, box_threshold: float = 0.35,
               text_threshold: float = 0.25) -> list[list[dict]]:
        """Boxes of each frame [n,h,w,3], best first; one label a phrase, so ``text_threshold`` has no use here."""
        from ...vision.boxes import from_corners, inside
        from ...vision.grounding import prepared_text

        height, width = frames.shape[1:3]
        device = next(self.module.parameters()).device
        pixels = frames[..., :3].movedim(-1, 1).float().to(device) * 2 - 1
        pixels = F.interpolate(pixels, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)
        scale = torch.tensor([width, height, width, height]) / SIDE
        found: list[list[dict]] = [[] for _ in frames]
        for phrase in filter(None, (part.strip() for part in prepared_text(text).split("."))):
            if not understood(phrase):
                continue
            ids = tokenize([phrase]).to(device).expand(len(frames), -1)
            logits, boxes = self.module(pixels, ids)
            for row, chances, places in zip(found, logits.sigmoid().flatten(1).cpu(), boxes.flatten(1, 2).cpu()):
                for index in suppress_overlaps(chances, places, box_threshold):
                    box = from_corners(places[index] * scale, label=phrase, score=chances[index].item())
                    row += [part] if (part := inside(box, height, width)) else []
        return [sorted(row, key=lambda box: -box["score"]) for row in found]


def understood(phrase: str) -> bool:
    """Whether a phrase names a thing in words of the toy world; others have vectors that nothing was learned for."""
    words = set(phrase.split())
    return words <= set(vocabulary()) and bool(words & {*COLOURS, *SHAPES, *TEXTURES, "thing"})


def suppress_overlaps(chances: torch.Tensor, boxes: torch.Tensor, threshold: float, same: float = 0.5) -> list[int]:
    """Numbers of the boxes above a threshold, best first, without those that lie on a better one."""
    order = [i for i in chances.argsort(descending=True).tolist() if chances[i] > threshold]
    doubles = (overlaps(boxes[:, None], boxes[None]) >= same).tolist()
    chosen: list[int] = []
    for index in order:
        if not any(doubles[index][other] for other in chosen):
            chosen.append(index)
    return chosen
