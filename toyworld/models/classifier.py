"""The judge: a small convolutional network that names colour, shape, texture, background and style of a picture.

Input is a 64x64 RGB picture (the whole frame resized, or a crop around the main object with a margin). It is the
instrument that measures generation and edits, so it is trained on renders with blur, noise and compression-like
softness, and its own accuracy on held-out renders is recorded beside its weights.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ..world.grammar import ALL_BACKGROUNDS, COLOURS, SHAPES, STYLES, TEXTURES

HEADS: dict[str, tuple[str, ...]] = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "texture": TEXTURES,
    "background": tuple(ALL_BACKGROUNDS),
    "style": tuple(STYLES),
}
SIZE = 64


def block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """3x3 convolution, group norm, SiLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.GroupNorm(8, outputs), nn.SiLU())


class Classifier(nn.Module):
    """[B,3,64,64] in [-1,1] -> dict head -> logits [B, classes]."""

    def __init__(self, channels: tuple[int, ...] = (24, 48, 64, 80)):
        super().__init__()
        layers, inputs = [], 3
        for width in channels:
            layers += [block(inputs, width, 2), block(width, width, 1)]
            inputs = width
        self.features = nn.Sequential(*layers)
        # mean and maximum over the 4x4 map: backgrounds fill the frame, objects do not
        self.heads = nn.ModuleDict({name: nn.Linear(2 * inputs, len(names)) for name, names in HEADS.items()})

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.features(images)
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1)
        return {name: head(pooled) for name, head in self.heads.items()}


def crop_resize(images: torch.Tensor, boxes: torch.Tensor | None = None) -> torch.Tensor:
    """Frames to the classifier's input.

    Args:
        images: [B,H,W,3] in 0..1.
        boxes: [B,4] pixel boxes (left, top, right, bottom), may leave the frame (edge pixels repeat); None = whole.
    Returns: [B,3,64,64] in [-1,1].
    """
    batch = images.permute(0, 3, 1, 2).float()
    if boxes is None:
        return F.interpolate(batch, (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False) * 2 - 1
    height, width = batch.shape[-2:]
    steps = (torch.arange(SIZE) + 0.5) / SIZE
    left, top, right, bottom = boxes.float().unbind(1)
    x = (left[:, None] + (right - left)[:, None] * steps) / width * 2 - 1
    y = (top[:, None] + (bottom - top)[:, None] * steps) / height * 2 - 1
    grid = torch.stack([x[:, None, :].expand(-1, SIZE, -1), y[:, :, None].expand(-1, -1, SIZE)], dim=-1)
    return F.grid_sample(batch, grid, mode="bilinear", padding_mode="border", align_corners=False) * 2 - 1


def boxes_of(masks: torch.Tensor, margin: float = 0.35) -> torch.Tensor:
    """Square boxes around soft masks [B,H,W], side = (1 + 2 margin) x the longer extent; [B,4] pixels."""
    boxes = []
    for mask in masks:
        ys, xs = torch.nonzero(mask > 0.5, as_tuple=True)
        if len(ys) == 0:
            boxes.append([0.0, 0.0, mask.shape[1], mask.shape[0]])
            continue
        left, right, top, bottom = xs.min().item(), xs.max().item() + 1, ys.min().item(), ys.max().item() + 1
        half = max(right - left, bottom - top) * (0.5 + margin)
        cx, cy = (left + right) / 2, (top + bottom) / 2
        boxes.append([cx - half, cy - half, cx + half, cy + half])
    return torch.tensor(boxes, dtype=torch.float32)
