"""What lock-step can not do exactly, told before the model is loaded: one sentence each, with a way out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import comfy.model_base
import comfy.samplers

from .blocks import refuse_second_owner

if TYPE_CHECKING:
    from torch import Tensor

    from ...methods.attachment import Attachment

#: Conditions that the host stretches over time where their number is not that of the frames.
IMAGES = ("concat_latent_image", "concat_mask")


def check_run(guider: Any, attachment: Attachment, noise: Tensor, sampler: Any, sigmas: Tensor) -> None:
    """Check one run of a guider.

    Raises:
        ValueError: something in it does not go with gather-swap.
    """
    attachment.lanes.group_of(noise.shape[0])
    replaced = guider.model_options.get("transformer_options", {}).get("patches_replace", {})
    for kind in attachment.lanes.kinds:
        refuse_second_owner(replaced, kind, attachment.sites, attachment.method)
    check_model(guider.model_options, "gather-swap")
    check_sampler(sampler)
    check_sigmas(sigmas)
    check_images(guider, noise.shape[0])


def check_model(model_options: dict[str, Any], method: str) -> None:
    """Raise ValueError where something on the MODEL cuts the clip, or leaves steps out."""
    if model_options.get("context_handler") is not None:
        raise ValueError(f"model: has context windows, which cut the clip where {method} needs all of it; remove "
                         f"them, since {method} computes frames in chunks of its own.")
    cache = next((key for key in model_options.get("transformer_options", {}) if "cache" in str(key).lower()), None)
    if cache is not None:
        raise ValueError(f"model: {cache} leaves out steps by what it keeps of earlier ones, and {method} evaluates "
                         "several parts of the clip in a step; remove that node.")


def check_sampler(sampler: Any) -> None:
    """Raise ValueError unless every frame goes its own way through the sampler."""
    if not isinstance(sampler, comfy.samplers.KSAMPLER):
        raise ValueError(f"sampler: {type(sampler).__name__} gives no hand on its batch and its noise, which "
                         "gather-swap needs; use one of KSampler's, such as euler, ddim, heun or dpmpp_2m.")
    name = getattr(sampler.sampler_function, "__name__", "")
    if "adaptive" in name:
        raise ValueError(f"sampler: {name.removesuffix('_function')} chooses its steps by the whole batch, so that "
                         "frames would depend on each other; use one with fixed steps, such as euler or dpmpp_2m.")
    if sampler.extra_options.get("noise_clip_std"):
        raise ValueError("sampler: noise_clip_std clips noise by the whole batch, so that frames would depend on each "
                         "other; set it to 0.")


def check_sigmas(sigmas: Tensor) -> None:
    """Raise ValueError where the noise levels rise."""
    rising = (sigmas[1:] > sigmas[:-1]).nonzero()
    if len(rising):
        raise ValueError(f"sigmas: rise at step {int(rising[0]) + 1}, as in an inversion, but gather-swap goes with "
                         "falling ones only; invert with DDIM Inversion, or with the model from before Gather-Swap.")


def check_images(guider: Any, frames: int) -> None:
    """Raise ValueError where an instruction editor has no image, or an image condition other frames than the clip."""
    conds = getattr(guider, "conds", {})
    for name, conditions in conds.items():
        for value in (c.get(key) for c in conditions for key in IMAGES):
            if value is not None and value.shape[0] not in (1, frames):
                raise ValueError(f"{name}: holds an image condition of {value.shape[0]} frames, but the clip has "
                                 f"{frames}; give one image for all of them or {frames}.")
    images = any(c.get("concat_latent_image") is not None for conditions in conds.values() for c in conditions)
    if isinstance(guider.model_patcher.model, comfy.model_base.IP2P) and not images:
        raise ValueError("positive: holds no image, but this model edits an image by instruction; connect "
                         "InstructPixToPixConditioning with the clip.")
