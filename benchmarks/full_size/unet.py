"""Stable Diffusion's U-Net at full size: built with random weights, and its tuning and sampling in fake tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from ...backends.diffusers import DiffusersBackend, DiffusersModel
from ...backends.diffusers.denoiser import Denoiser
from ...diffusion.schedule import DiscreteSchedule
from ...diffusion.training import NoiseTraining
from ...methods.attachment import Attachment
from ...methods.lora_edit.memory import GIB
from ...methods.tune_recipe import PUBLISHED, TuneRecipe
from ...methods.tuning import ClipTask
from ...methods.via.gather_swap import GatherSwapRun
from ...methods.via.pipeline import ViaRecipe, sample_edit
from ..common.live import LiveStorages, fake, work_counter

#: What is attached, of a backend and a MODEL.
Building = Callable[[DiffusersBackend, DiffusersModel], list[Attachment]]
TEXT_TOKENS = 77


@dataclass(frozen=True)
class UNetShape:
    """Of a U-Net as Stable Diffusion has it; the two narrow ones rehearse.

    Args:
        depths: of the transformers on the way down, 0 for none; None: 1 in all stages but the last.
        pooled: width of SDXL's pooled text, 0 for none.
    """

    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers: int = 2
    text: int = 768
    groups: int = 32
    inputs: int = 4
    depths: tuple[int, ...] | None = None
    pooled: int = 0


SD15 = UNetShape()
SDXL = UNetShape(channels=(320, 640, 1280), text=2048, depths=(0, 2, 10), pooled=1280)
PIX2PIX = UNetShape(inputs=8)
TINY = UNetShape(channels=(32, 32, 64, 64), layers=1, text=32, groups=8)
TINY_PIX2PIX = UNetShape(channels=(32, 32, 64, 64), layers=1, text=32, groups=8, inputs=8)


def built_unet(shape: UNetShape) -> nn.Module:
    """A U-Net with the random weights that its layers begin with, on the default device and in the default dtype."""
    from diffusers import UNet2DConditionModel

    depths = shape.depths or (1,) * (len(shape.channels) - 1) + (0,)
    sdxl: dict[str, Any] = {} if not shape.pooled else dict(
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=shape.pooled + 6 * 256,
        transformer_layers_per_block=[max(1, depth) for depth in depths],
    )  # fmt: skip
    return UNet2DConditionModel(
        sample_size=64, in_channels=shape.inputs, out_channels=4, layers_per_block=shape.layers,
        block_out_channels=shape.channels, cross_attention_dim=shape.text, norm_num_groups=shape.groups,
        # By this name the number of heads: 8, or as many as heads of 64 make.
        attention_head_dim=tuple(width // 64 for width in shape.channels) if shape.pooled else 8,
        down_block_types=tuple("CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths),
        up_block_types=tuple("CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)), **sdxl,
    ).eval().requires_grad_(False)  # fmt: skip


def text_of(shape: UNetShape, **extra: Any) -> list[list[Any]]:
    """CONDITIONING of random tokens."""
    pooled = {"pooled_output": torch.randn(1, shape.pooled)} if shape.pooled else {}
    return [[torch.randn(1, TEXT_TOKENS, shape.text), {**pooled, **extra}]]


@dataclass(frozen=True)
class Predicted:
    """Of one piece of work, in fake tensors.

    Args:
        peak: bytes of what it holds at the worst moment, beside the U-Net's weights.
        weights: bytes of those.
        flops: of its matrix products and convolutions.
    """

    peak: int
    weights: int
    flops: float

    def numbers(self) -> dict[str, float]:
        """As they are written down."""
        return {"fake_gib": self.peak / GIB, "weights_gib": self.weights / GIB, "work_tflop": self.flops / 1e12}


class _Schedule(DiscreteSchedule):
    """Levels of noise in tensors without numbers: which of them it is changes neither memory nor work."""

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.zeros(shape, dtype=torch.int64)


@contextmanager
def _fake_modules() -> Iterator[None]:
    """Fake tensors inside; a module of them cannot be moved, and is made where it belongs."""
    with fake(), patch.object(nn.Module, "to", lambda module, *args, **kwargs: module):
        yield


def fake_tuning(shape: UNetShape, building: Building, latent: tuple[int, ...], dtype: torch.dtype,
                recipe: TuneRecipe = PUBLISHED, frozen: Building | None = None) -> Predicted:
    """One step of one-shot tuning on a clip's latent [frames, 4, h, w], the U-Net stored in ``dtype``.

    Args:
        building: what trains. frozen: what is at work beside it.
    """
    with _fake_modules():
        model, weights = _fake_model(shape, dtype)
        backend = DiffusersBackend()
        attachments = building(backend, model)
        for beside in frozen(backend, model) if frozen else ():
            for tree in beside.trees:
                tree.requires_grad_(False)
            attachments.insert(0, beside)
        clean = torch.randn(latent)
        task = ClipTask(backend, model, attachments, clean, text_of(shape), recipe.queries)
        peak = flops = 0
        # What a step computes is counted in one of its own: the counter keeps tensors alive.
        for counting in (False, True):
            live = LiveStorages([*weights, clean])
            counter = work_counter() if counting else None
            with live, torch.enable_grad(), task.open(0) as view:
                training = NoiseTraining(view.parameters, model.schedule, learning_rate=recipe.learning_rate,
                                         betas=recipe.betas, weight_decay=recipe.weight_decay,
                                         max_grad_norm=recipe.max_grad_norm, seed=0)  # fmt: skip
                with counter or nullcontext():
                    for _ in range(1 if counting else 2):
                        training.step(lambda noisy, t: task.predict(view, noisy, t, None), clean)
            if counter is not None:
                flops = counter.get_total_flops()
            else:
                peak = live.peak
    return Predicted(peak, sum(w.nbytes for w in weights), flops)


def fake_evaluation(shape: UNetShape, building: Building, latent: tuple[int, ...], dtype: torch.dtype,
                    branches: int) -> Predicted:
    """One evaluation of the denoiser, with so many branches of guidance in a call and all frames of the latent."""
    with _fake_modules(), torch.no_grad():
        model, weights = _fake_model(shape, dtype)
        backend = DiffusersBackend()
        for attachment in building(backend, model):
            model = backend.attach(model, attachment)
        extra = {"concat_latent_image": torch.randn(latent)} if shape.inputs > 4 else {}
        positive, middle, negative = (text_of(shape, **extra) for _ in range(3))
        denoise = Denoiser(model, positive, negative if branches > 1 else None, 7.5, frames=latent[0],
                           middle=middle if branches > 2 else None, middle_cfg=1.5)  # fmt: skip
        x, peak, flops = torch.randn(latent), 0, 0
        for counting in (False, True):
            live = LiveStorages([*weights, x])
            counter = work_counter() if counting else None
            with live, counter or nullcontext():
                denoise(x, torch.ones(latent[0]))
            if counter is not None:
                flops = counter.get_total_flops()
            else:
                peak = live.peak
    return Predicted(peak, sum(w.nbytes for w in weights), flops)


def fake_sampling(shape: UNetShape, latent: tuple[int, ...], dtype: torch.dtype, recipe: ViaRecipe) -> Predicted:
    """A step of VIA's sampling of a clip's latent [frames, 4, h, w] under three branches, in calls as its plan says.

    The clip itself and its noise are counted: they are what grows with its length.
    """
    with _fake_modules(), torch.no_grad():
        model, weights = _fake_model(shape, dtype)
        backend, peak, flops = DiffusersBackend(), 0, 0
        positive, negative, samples = text_of(shape), text_of(shape), torch.randn(latent)
        for counting in (False, True):
            live = LiveStorages([*weights])
            counter = work_counter() if counting else None
            # A level of noise has no number here: the step is one of those in which the group gathers.
            gathers = patch.object(GatherSwapRun, "phase", lambda run, sigma: "active")
            quiet = patch.object(backend, "progress", lambda total, label: _NoBar())
            with live, counter or nullcontext(), gathers, quiet:
                sample_edit(backend, model, samples, positive, negative, replace(recipe, steps=1))
            if counter is not None:
                flops = counter.get_total_flops()
            else:
                peak = live.peak + samples.nbytes
    return Predicted(peak, sum(w.nbytes for w in weights), flops)


class _NoBar:
    def update(self, *values: Any, **numbers: Any) -> None:
        """Nothing is shown."""


def _fake_model(shape: UNetShape, dtype: torch.dtype) -> tuple[DiffusersModel, list[Tensor]]:
    """A MODEL of fake weights in this dtype: made in it, since a fake network cannot be moved."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        unet = built_unet(shape)
    finally:
        torch.set_default_dtype(default)
    model = DiffusersModel(unet, schedule=_Schedule.scaled_linear())
    return model, [*unet.parameters(), *unet.buffers()]
