"""One training step of a LoRA on a video transformer of full size, in fake tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch

from ...backends import offload
from ...diffusion.flow import RectifiedFlow
from ...diffusion.training import NoiseTraining
from ...methods.lora_edit.memory import GIB, plan
from ...methods.lora_edit.recipe import MaskLoRARecipe
from ...methods.lora_edit.samples import Sample
from ...methods.lora_edit.train import VideoSettings, first_lora
from ..common.live import Held, LiveStorages, work_counter

RANK = 16


@dataclass(frozen=True)
class Step:
    """Of one training step, in bytes beside the network's weights.

    Args:
        tokens: that run through the blocks.
        peak: what lives at the worst moment of the second step, in which AdamW has its moments.
        predicted: what is estimated before a training.
        flops: of one step, the blocks' second forward included; 0 where it was not counted.
        held: the storages at the worst moment, the largest first.
    """

    tokens: int
    peak: int
    predicted: int
    held: list[Held]
    flops: float = 0.0

    @property
    def off(self) -> float:
        """The prediction's error, as a share of the peak."""
        return self.predicted / self.peak - 1

    def __str__(self) -> str:
        return (f"{self.tokens} tokens, {self.peak / GIB:.2f} GiB beside the weights, {self.predicted / GIB:.2f} "
                f"predicted ({self.off:+.1%})")  # fmt: skip


def training_step(
    backend: Any, model: Any, samples: Sequence[Sample], *, recipe: MaskLoRARecipe | None = None,
    settings: VideoSettings | None = None, dtype: torch.dtype | None = None, noted: bool = False,
    weights: Sequence[torch.Tensor], counted: bool = False, whole: int = 0, offloaded: int = 0,
) -> Step:  # fmt: skip
    """Two steps of training on the first sample, inside a ``common.live.fake``.

    Args:
        backend, model: see ``backends.protocol.VideoBackend``; the model's weights are fake.
        dtype: of the latents that the model takes; None leaves them in float32, as hosts that cast do.
        noted: write down what lives at the worst moment.
        weights: the model's own tensors, which are not counted.
        counted: count the work of a third step, too.
        whole: blocks that are not computed again.
        offloaded: blocks whose inputs wait in the main memory.
    """
    recipe, settings = recipe or MaskLoRARecipe(rank=RANK), settings or VideoSettings()
    clean, base = samples[0].latent, recipe.training
    lora = first_lora(backend, model, recipe, None)
    size = backend.video_size(model, samples[0], settings.precision, lora)
    planned = plan(size, clean.shape, recipe.rank, sum(value.numel() for value in lora.values()),
                   offloaded=offloaded, whole=whole)  # fmt: skip
    live = LiveStorages([*weights, *lora.values(), clean], noted)
    elsewhere = patch.multiple(offload, to_main_memory=lambda x: live.elsewhere(x.clone()),
                               from_main_memory=lambda x, device: x.clone())  # fmt: skip
    opened = backend.video_training(model, samples, lora, planned, settings.precision)
    with elsewhere, live, torch.enable_grad(), opened as view:
        training = NoiseTraining(
            view.parameters, RectifiedFlow(), learning_rate=base.learning_rate, betas=base.betas,
            weight_decay=base.weight_decay, max_grad_norm=base.max_grad_norm, seed=0,
        )  # fmt: skip

        def predict(noisy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            return view.predict_velocity(noisy.to(dtype or noisy.dtype), sigma, 0)

        for _ in range(2):
            training.step(predict, clean)
        # By itself: a counter keeps tensors alive.
        peak, flops = live.peak, 0.0
        if counted:
            with work_counter() as counter:
                training.step(predict, clean)
            flops = counter.get_total_flops()
    return Step(size.tokens(clean.shape), peak, planned.beside_weights, live.at_peak(), flops)
