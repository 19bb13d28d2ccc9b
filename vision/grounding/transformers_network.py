"""transformers' Grounding DINO behind ``detector.Network``."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .detector import Tokens


class TransformersNetwork:
    """``GroundingDinoForObjectDetection``."""

    def __init__(self, module: nn.Module, tokenizer: Any):
        self.module, self.tokenizer = module, tokenizer

    def run(self, pixels: Tensor, caption: str, tokens: Tokens) -> tuple[Tensor, Tensor]:
        fields = {name: value.to(pixels.device).expand(len(pixels), -1) for name, value in tokens.fields.items()}
        done = self.module(pixel_values=pixels, **fields)
        return done.logits, done.pred_boxes
