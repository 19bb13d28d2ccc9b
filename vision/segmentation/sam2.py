"""Segment Anything 2 on single frames, behind ``Segmenter``: transformers' ``Sam2Model`` or ``Sam2VideoModel``.

Frames are stretched to the network's square, not padded as Segment Anything 1 does.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from .geometry import DEVIATION, MEAN
from .prompt import Prediction, Prompt


class Features(NamedTuple):
    """An encoded frame: feature maps [1, c, g, g] from fine to coarse, and its own (height, width)."""

    maps: list[Tensor]
    size: tuple[int, int]


def stretched(frames: Tensor, side: int) -> Tensor:
    """IMAGE [n, h, w, 3] -> the network's input [n, 3, side, side], float32."""
    pixels = frames[..., :3].movedim(-1, 1).float().clamp(0, 1)
    pixels = interpolate(pixels, (side, side), mode="bilinear", align_corners=False, antialias=True)
    mean, deviation = (pixels.new_tensor(values)[:, None, None] / 255 for values in (MEAN, DEVIATION))
    return (pixels - mean) / deviation


def side_of(module: nn.Module) -> int:
    """Width of the network's input in pixels."""
    side = module.config.prompt_encoder_config.image_size
    return side if isinstance(side, int) else side[0]


class Sam2:
    """See ``prompt.Segmenter``.

    Half precision is autocast around the image encoder, as its authors run it; prompts stay float32.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype = torch.float32):
        self.module, self.dtype, self.side = module.eval().requires_grad_(False), dtype, side_of(module)
        # Estimated for the large one at 1024 pixels: below a gigabyte a frame.
        self.frame_bytes = 2**28 * dtype.itemsize * (self.side / 1024) ** 2

    @property
    def device(self) -> torch.device:
        return self.module.no_memory_embedding.device

    def half(self) -> AbstractContextManager:
        """Autocast to ``dtype``; nothing for float32."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    @torch.no_grad()
    def encode(self, frames: Tensor) -> list[Features]:
        size = tuple(frames.shape[1:3])
        with self.half():
            maps = self.module.get_image_embeddings(stretched(frames.to(self.device), self.side))
        return [Features([level[i : i + 1].float() for level in maps], size) for i in range(len(frames))]

    @torch.no_grad()
    def predict(self, features: Features, prompt: Prompt, multimask: bool = False) -> Prediction:
        module, count, prompt = self.module, prompt.count, prompt.to(self.device)
        maps = [level.to(self.device).expand(count, -1, -1, -1) for level in features.maps]
        height, width = features.size
        scale = torch.tensor([self.side / width, self.side / height], device=self.device)
        boxes = None if prompt.boxes is None else (prompt.boxes * scale.repeat(2))[:, None]
        points, labels = (None if part is None else part[:, None] for part in (prompt.points, prompt.labels))
        if points is not None:
            points = points * scale
        elif boxes is None:
            # The network always wants a token: a point that is none.
            points = maps[-1].new_zeros(count, 1, 1, 2)
            labels = -torch.ones(count, 1, 1, dtype=torch.int32, device=self.device)
        sparse, dense = module.prompt_encoder(input_points=points, input_labels=labels, input_boxes=boxes,
                                              input_masks=prompt.logits)
        logits, scores, *_ = module.mask_decoder(
            image_embeddings=maps[-1], high_resolution_features=maps[:-1],
            image_positional_embeddings=module.get_image_wide_positional_embeddings().expand(count, -1, -1, -1),
            sparse_prompt_embeddings=sparse, dense_prompt_embeddings=dense, multimask_output=multimask)
        logits, scores = logits[:, 0], scores[:, 0]
        return Prediction(interpolate(logits, features.size, mode="bilinear", align_corners=False), scores, logits)
