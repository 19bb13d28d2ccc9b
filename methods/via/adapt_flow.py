"""Test-time adaptation of editors that read the picture as reference latents (Qwen-Image-Edit, FLUX Kontext)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...diffusion.flow import RectifiedFlow
from ..lora import new_lora
from .augment import random_maps, warped
from .editor_clip import MAKER, FrameMaker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...backends.protocol import PictureTraining, PictureTrainingView, Progress
    from .adapt_recipe import AdaptRecipe

#: Conditioning that the training has no use for.
UNUSED = ("control", "hooks", "area", "mask", "gligen")


@dataclass(frozen=True)
class FlowPairTask:
    """``training_loop.Task``: a LoRA on the pairs (source, edit) under an instruction, by the flow's velocity.

    Args:
        edited: latents of the warped edits in the model's scale, [variants, channels, (1,) h, w].
        instruction, empty: what conditions each variant, a row each or one row for all: its text as "cross_attn".
    """

    backend: PictureTraining
    model: Any
    edited: Tensor
    instruction: dict[str, Any]
    empty: dict[str, Any]
    recipe: AdaptRecipe
    name: str = "adaptation"
    smaller: str = "use a smaller batch or smaller images"
    less_memory: tuple[str, ...] = ()
    per_sample: bool = True

    @property
    def process(self) -> RectifiedFlow:
        return RectifiedFlow()

    def open(self, attempt: int) -> AbstractContextManager[PictureTrainingView]:
        lora = new_lora(self.backend.projections(self.model), self.recipe.rank, self.recipe.training.seed)
        return self.backend.picture_training(self.model, lora)

    def batch(self, step: int) -> tuple[Tensor, Any]:
        rng = np.random.default_rng((self.recipe.training.seed, step))
        rows = torch.from_numpy(rng.integers(len(self.edited), size=self.recipe.batch))
        # Texts of other lengths can not share a batch: a step is without the instruction, or it is not.
        given = self.empty if rng.random() < self.recipe.dropout else self.instruction
        here = {key: rows_of(value, rows, len(self.edited)) for key, value in given.items() if key != MAKER}
        return self.edited[rows], [[here.pop("cross_attn"), here]]

    def predict(self, view: PictureTrainingView, noisy: Tensor, level: Tensor, condition: Any) -> Tensor:
        return view.predict_velocity(noisy, level, condition)


def rows_of(value: Any, rows: Tensor, count: int) -> Any:
    """The rows of a condition's tensors that have one for each of ``count`` variants; the rest as it is."""
    if isinstance(value, Tensor):
        return value[rows] if value.ndim > 1 and len(value) == count else value
    if isinstance(value, (list, tuple)):
        return [rows_of(one, rows, count) for one in value]
    return value


def maker_of(name: str, conditioning: Sequence[Any]) -> tuple[FrameMaker, dict[str, Any]]:
    """How a CONDITIONING of one instruction is made for other frames, and what it holds, its text as "cross_attn".

    Raises:
        ValueError: it is none of Editor Conditioning, or holds what a training does not take.
    """
    if len(conditioning) != 1:
        raise ValueError(f"{name}: holds {len(conditioning)} conditions, but an adaptation learns one instruction; "
                         "connect one Editor Conditioning of a Clip.")
    text, extra = conditioning[0]
    if not isinstance(extra.get(MAKER), FrameMaker):
        raise ValueError(f"{name}: shows this editor no picture that can be exchanged for the warped ones; connect "
                         "Editor Conditioning of a Clip.")
    if found := sorted(key for key in UNUSED if extra.get(key) is not None):
        raise ValueError(f"{name}: has {', '.join(found)}, which training does not take; give the plain instruction.")
    return extra[MAKER], {**extra, "cross_attn": text}


def variants_of(pair: Tensor, positive: Any, negative: Any, recipe: AdaptRecipe, progress: Progress
                ) -> tuple[Tensor, dict[str, Any], dict[str, Any]]:  # fmt: skip
    """Latents of the warped edits, and what conditions each of them: the instruction and the empty one.

    Args:
        pair: IMAGE [2, height, width, 3], the root before and after its edit.
        positive, negative: CONDITIONING of Editor Conditioning.

    Raises:
        ValueError: see ``maker_of`` and ``FrameMaker.for_frames``.
    """
    height, width = pair.shape[1:3]
    maps = random_maps(recipe.variants, height, width, recipe.training.seed, recipe.ranges)
    sources, edits = warped(pair, maps)

    def step() -> None:
        # The host takes a cancel here.
        progress.update(0)

    # Hosts load in inference mode; what comes out is copied before it takes part in a backward pass.
    with torch.inference_mode():
        conditions = []
        for name, conditioning in (("positive", positive), ("negative", negative)):
            maker, held = maker_of(name, conditioning)
            conditions.append(maker.for_frames(held, sources, step, name))
        latents = []
        for edit in edits.split(1):
            latents.append(maker.clip.editor.latent(edit))
            step()
    return torch.cat(latents), conditions[0], conditions[1]
