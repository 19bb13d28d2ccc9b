"""Inversion and sampling through the host's own guider, so that everything on the MODEL takes part."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import comfy.samplers
import latent_preview
import torch

from ...diffusion.inversion import ddim_inversion

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from torch import Tensor

    from ..protocol import Progress


def previewing(model: ModelPatcher, progress: Progress) -> Callable:
    """The host's sampler callback, drawn into ``progress``."""
    previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)

    def callback(step: int, denoised: Tensor, x: Tensor, total: int) -> None:
        picture = previewer.decode_latent_to_preview_image("JPEG", denoised)[1] if previewer else None
        progress.update(step + 1, preview=picture)

    return callback


def run_sampler(
    model: ModelPatcher, conditions: dict[str, Any], guidance: float, samples: Tensor, sigmas: Tensor,
    sampler: comfy.samplers.Sampler, progress: Progress,
) -> Tensor:
    """One run of a sampler on LATENT samples, without adding noise."""
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds(conditions)
    guider.set_cfg(guidance)
    callback, no_noise = previewing(model, progress), torch.zeros_like(samples)
    return guider.sample(no_noise, samples, sampler, sigmas, callback=callback, disable_pbar=True, seed=0)


def invert(
    model: ModelPatcher, conditioning: Any, samples: Tensor, sigmas: Tensor, refinement: int, progress: Progress
) -> list[Tensor]:
    """``Backend.invert``: x at every one of the ascending ``sigmas``, LATENT scale, on the CPU."""
    trajectory: list[Tensor] = []

    def sampler(denoiser, x, sigmas, extra_args=None, callback=None, disable=None):
        path = ddim_inversion(denoiser, x, sigmas, extra_args, callback, disable, refinement=refinement)
        trajectory.extend(model.model.process_latent_out(point.float().cpu()) for point in path)
        return path[-1]

    run_sampler(model, {"positive": conditioning}, 1.0, samples, sigmas, comfy.samplers.KSAMPLER(sampler), progress)
    return trajectory


def sample(
    model: ModelPatcher, positive: Any, negative: Any, guidance: float, samples: Tensor, sigmas: Tensor,
    progress: Progress,
) -> Tensor:
    """``Backend.sample``: DDIM, which is Euler in sigma space, from x at ``sigmas[0]``."""
    conditions = {"positive": positive, "negative": negative}
    return run_sampler(model, conditions, guidance, samples, sigmas, comfy.samplers.sampler_object("euler"), progress)
