"""The U-Net methods at the papers' sizes on this machine's device, with random weights: seconds and memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...backends.diffusers import DiffusersModel
from ...methods.ei2 import build_ffam, build_stam
from ...methods.tune_recipe import TuneRecipe
from ...methods.tuning import tune
from ...methods.via.pipeline import ViaRecipe, sample_edit
from ..common.cases import quiet_backend
from ..common.clock import timed
from ..common.memory import peak_memory
from .unet import UNetShape, built_unet, text_of

SEED = 0


def ei2_parts(sites: Any) -> list[Any]:
    """STAM and FFAM, as the paper attaches them."""
    return [build_stam(sites, seed=SEED), build_ffam(sites)]


def model_of(shape: UNetShape, dtype: torch.dtype) -> DiffusersModel:
    """A MODEL with random weights, stored in this dtype, on the GPU where there is one."""
    torch.manual_seed(SEED)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        unet = built_unet(shape)
    return DiffusersModel(unet.to(dtype).to(memory_format=torch.channels_last))


def timed_ei2(
    shape: UNetShape, latent: tuple[int, ...], dtype: torch.dtype, tuning_steps: int, steps: int
) -> dict[str, Any]:
    """EI2 on one clip's latent [frames, 4, h, w]: tuning, then inversion and sampling.

    Returns:
        seconds and peaks of memory, in GiB with the weights; the losses' first and last tenth.
    """
    model, backend, samples = model_of(shape, dtype), quiet_backend(), _clip(latent)
    weights = sum(w.nbytes for w in model.unet.parameters()) / 2**30
    for attachment in ei2_parts(backend.sites(model)):
        model = backend.attach(model, attachment)
    positive, negative = text_of(shape), text_of(shape)
    # The first steps choose kernels; they are not timed.
    tune(backend, model, samples, positive, TuneRecipe(steps=2), preview_every=0)
    with peak_memory() as tuning_memory, timed() as tuning:
        tuned = tune(backend, model, samples, positive, TuneRecipe(steps=tuning_steps), preview_every=0)
    sigmas = backend.schedule(model).ddim_sigmas(steps)
    with peak_memory() as memory:
        with timed() as inversion:
            bar = backend.progress(steps, "inversion")
            path = backend.invert(tuned.model, negative, samples, sigmas.flip(0), 0, bar)
        with timed() as sampling:
            bar = backend.progress(steps, "sampling")
            edited = backend.sample(tuned.model, positive, negative, 7.5, path[-1], sigmas, bar)
    _check(edited)
    tenth = max(1, tuning_steps // 10)
    return {
        "tuning_seconds": tuning.wall, "step_seconds": tuning.wall / tuning_steps, "inversion_seconds": inversion.wall,
        "sampling_seconds": sampling.wall, "weights_gib": weights,
        "tuning_gib": weights + tuning_memory.peak_mb / 1024, "sampling_gib": weights + memory.peak_mb / 1024,
        "first_losses": _mean(tuned.losses[:tenth]), "last_losses": _mean(tuned.losses[-tenth:]),
    }  # fmt: skip


def timed_via(shape: UNetShape, latent: tuple[int, ...], dtype: torch.dtype, recipe: ViaRecipe) -> dict[str, Any]:
    """VIA's sampling with gather-swap on one clip's latent, beside the same without it."""
    from dataclasses import replace

    model, backend, samples = model_of(shape, dtype), quiet_backend(), _clip(latent)
    weights = sum(w.nbytes for w in model.unet.parameters()) / 2**30
    positive, negative = text_of(shape), text_of(shape)

    def run(used: ViaRecipe, clip: Tensor) -> Tensor:
        return sample_edit(backend, model, clip, positive, negative, used)

    assert recipe.swap is not None  # it is what is timed
    run(replace(recipe, steps=2), samples[: max(8, recipe.swap.group)])
    with peak_memory() as memory, timed() as swapped:
        edited = run(recipe, samples)
    with timed() as plain:
        run(replace(recipe, swap=None), samples)
    _check(edited)
    return {
        "frames": len(samples), "seconds": swapped.wall, "frames_per_second": len(samples) / swapped.wall,
        "over_plain": swapped.wall / plain.wall, "weights_gib": weights, "peak_gib": weights + memory.peak_mb / 1024,
    }  # fmt: skip


def _clip(latent: tuple[int, ...]) -> Tensor:
    return torch.randn(latent, generator=torch.Generator().manual_seed(SEED))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _check(samples: Tensor) -> None:
    if not samples.isfinite().all():
        raise FloatingPointError("full size: the edited latents hold NaN or infinite values.")
