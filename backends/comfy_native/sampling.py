"""Inversion and sampling through the host's own guider, so that everything on the MODEL takes part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import comfy.samplers
import latent_preview
import torch

from ...diffusion.inversion import ddim_inversion, flow_inversion
from .patcher import state_of, with_state

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


def guider_of(
    model: ModelPatcher, conditions: dict[str, Any], guidance: float, middle_guidance: float = 1.0
) -> comfy.samplers.CFGGuider:
    """The host's guider: with a condition ``middle`` the one of its DualCFGGuider node, style "regular"."""
    if "middle" not in conditions:
        guider = comfy.samplers.CFGGuider(model)
        guider.inner_set_conds(conditions)
        guider.set_cfg(guidance)
        return guider
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG

    guider = Guider_DualCFG(model)
    guider.set_conds(conditions["positive"], conditions["middle"], conditions["negative"])
    guider.set_cfg(guidance, middle_guidance)
    return guider


def sampler_of(sampler: str | Callable[..., Tensor]) -> comfy.samplers.Sampler:
    """The host's sampler of a name, or around a function in k-diffusion's convention; a SAMPLER as it is."""
    if isinstance(sampler, comfy.samplers.Sampler):
        return sampler
    return comfy.samplers.KSAMPLER(sampler) if callable(sampler) else comfy.samplers.sampler_object(sampler)


def run_sampler(
    model: ModelPatcher, guider: comfy.samplers.CFGGuider, samples: Tensor, sigmas: Tensor,
    sampler: comfy.samplers.Sampler, progress: Progress, seed: int = 0,
) -> Tensor:
    """One run of a sampler on LATENT samples, without adding noise."""
    callback, no_noise = previewing(model, progress), torch.zeros_like(samples)
    return guider.sample(no_noise, samples, sampler, sigmas, callback=callback, disable_pbar=True, seed=seed)


def frame_by_frame(model: ModelPatcher) -> ModelPatcher:
    """The MODEL to invert a clip with: what edits all frames alike has no part in the noise of the source. Windows
    have one where frames see each other."""
    state = state_of(model)
    kept = tuple(a for a in state.attachments if a.plan is None or a.plan.cuts_clip)
    return model if kept == state.attachments else with_state(model, replace(state, attachments=kept))


def invert(
    model: ModelPatcher, conditioning: Any, samples: Tensor, sigmas: Tensor, refinement: int, progress: Progress
) -> list[Tensor]:
    """``Backend.invert``: x at every one of the ascending ``sigmas``, LATENT scale, on the CPU."""
    return recorded(partial(ddim_inversion, refinement=refinement), frame_by_frame(model), conditioning, samples,
                    sigmas, progress)  # fmt: skip


def invert_flow(
    model: ModelPatcher, conditioning: Any, samples: Tensor, sigmas: Tensor, progress: Progress
) -> list[Tensor]:
    """``Flows.invert_flow``."""
    return recorded(flow_inversion, model, conditioning, samples, sigmas, progress)


def recorded(
    inversion: Callable[..., list[Tensor]], model: ModelPatcher, conditioning: Any, samples: Tensor, sigmas: Tensor,
    progress: Progress,
) -> list[Tensor]:
    """x at every noise level of an inversion, LATENT scale, on the CPU."""
    trajectory: list[Tensor] = []

    def sampler(denoiser, x, sigmas, extra_args=None, callback=None, disable=None):
        path = inversion(denoiser, x, sigmas, extra_args, callback, disable)
        trajectory.extend(model.model.process_latent_out(point.float().cpu()) for point in path)
        return path[-1]

    guider = guider_of(model, {"positive": conditioning}, 1.0)
    run_sampler(model, guider, samples, sigmas, sampler_of(sampler), progress)
    # The clip itself as it came: scaling there and back would round it.
    return [samples.float().cpu(), *trajectory[1:]]


def sample(
    model: ModelPatcher, positive: Any, negative: Any, guidance: float, samples: Tensor, sigmas: Tensor,
    progress: Progress, sampler: str | Callable[..., Tensor] = "euler", seed: int = 0, middle: Any = None,
    middle_guidance: float = 1.0,
) -> Tensor:
    """``Backend.sample``: from x at ``sigmas[0]``; the default sampler is DDIM, which is Euler in sigma space."""
    conditions = {"positive": positive, "negative": negative}
    if middle is not None:
        conditions["middle"] = middle
    guider = guider_of(model, conditions, guidance, middle_guidance)
    return run_sampler(model, guider, samples, sigmas, sampler_of(sampler), progress, seed)
