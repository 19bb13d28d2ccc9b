"""Segment Anything 1 behind ``Segmenter``, on segment-anything's modules or on transformers'."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from .geometry import from_square, squares, to_square
from .prompt import Prediction, Prompt


class Engine(Protocol):
    """One implementation of the network, in its own square of ``side`` pixels."""

    module: nn.Module
    encoder: nn.Module
    side: int

    def embed(self, pixels: Tensor) -> Tensor:
        """[n, 3, side, side] normalised -> [n, c, side / 16, side / 16]."""

    def decode(self, embedding: Tensor, prompt: Prompt, multimask: bool) -> tuple[Tensor, Tensor]:
        """Embedding [1, c, g, g] and a prompt in the square -> logits [k, c', 4 g, 4 g], scores [k, c']."""


class Features(NamedTuple):
    """An encoded frame: its embedding [1, c, g, g] and its own (height, width)."""

    embedding: Tensor
    size: tuple[int, int]


class Sam:
    """See ``prompt.Segmenter``.

    The image encoder may run in half precision; prompts and masks are float32 always: bfloat16
    cannot even tell two neighbouring pixels of 1024 apart.
    """

    def __init__(self, engine: Engine, dtype: torch.dtype = torch.float32):
        self.engine, self.module, self.dtype = engine, engine.module, dtype
        engine.module.eval().requires_grad_(False)
        engine.encoder.to(dtype)
        tokens = (engine.side // 16) ** 2
        # The largest tensors are the attention matrices of a global layer, at least 12 heads, and their softmax.
        self.frame_bytes = 2 * 12 * tokens**2 * dtype.itemsize

    @torch.no_grad()
    def encode(self, frames: Tensor) -> list[Features]:
        weight = next(self.engine.encoder.parameters())
        pixels = squares(frames, self.engine.side).to(weight.device, self.dtype)
        size = tuple(frames.shape[1:3])
        return [Features(row[None].float(), size) for row in self.engine.embed(pixels)]

    @torch.no_grad()
    def predict(self, features: Features, prompt: Prompt, multimask: bool = False) -> Prediction:
        device = next(self.module.parameters()).device
        embedding, prompt, side = features.embedding.to(device), prompt.to(device), self.engine.side
        boxes = None if prompt.boxes is None else to_square(prompt.boxes.reshape(-1, 2, 2), features.size, side)
        points = None if prompt.points is None else to_square(prompt.points, features.size, side)
        inner = Prompt(None if boxes is None else boxes.reshape(-1, 4), points, prompt.labels, prompt.logits)
        logits, scores = self.engine.decode(embedding, inner, multimask)
        return Prediction(from_square(logits, features.size, side), scores, logits)


class OfficialEngine:
    """segment-anything's ``Sam`` module."""

    def __init__(self, module: nn.Module):
        self.module, self.encoder, self.side = module, module.image_encoder, module.image_encoder.img_size

    def embed(self, pixels: Tensor) -> Tensor:
        return self.encoder(pixels)

    def decode(self, embedding: Tensor, prompt: Prompt, multimask: bool) -> tuple[Tensor, Tensor]:
        points = None if prompt.points is None else (prompt.points, prompt.labels)
        sparse, dense = self.module.prompt_encoder(points=points, boxes=prompt.boxes, masks=prompt.logits)
        return self.module.mask_decoder(
            image_embeddings=embedding, image_pe=self.module.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse, dense_prompt_embeddings=dense, multimask_output=multimask)


class TransformersEngine:
    """transformers' ``SamModel``."""

    def __init__(self, module: nn.Module):
        self.module, self.encoder = module, module.vision_encoder
        self.side = module.config.vision_config.image_size

    def embed(self, pixels: Tensor) -> Tensor:
        return self.encoder(pixels)[0]

    def decode(self, embedding: Tensor, prompt: Prompt, multimask: bool) -> tuple[Tensor, Tensor]:
        # One object a batch row: its other way, several in a row, mixes up their masks.
        row = lambda part: None if part is None else part[:, None]  # noqa: E731
        done = self.module(
            image_embeddings=embedding.expand(prompt.count, -1, -1, -1), input_points=row(prompt.points),
            input_labels=row(prompt.labels), input_boxes=row(prompt.boxes), input_masks=prompt.logits,
            multimask_output=multimask)
        return done.pred_masks[:, 0].float(), done.iou_scores[:, 0].float()
