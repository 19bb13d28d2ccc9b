"""One run of a sampler, with what an attached method's plan needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from ...diffusion.samplers import named_sampler
from ...methods.reference_rows import sample_with_rows

if TYPE_CHECKING:
    from torch import Tensor

    from .denoiser import Denoiser


@torch.no_grad()
def sample(
    denoise: Denoiser,
    sampler: str | Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    **options: Any,
) -> Tensor:
    """x at ``sigmas[-1]``.

    Args:
        denoise: of the clip.
        sampler: a name of ``diffusion.samplers.SAMPLERS``, or a function in k-diffusion's
            convention. With rows that ride along each row of its batch must go its own way, and noise
            that it draws must come from its keyword ``noise_sampler``.
        x: [frames, channels, h, w], x at ``sigmas[0]`` in the scale that the U-Net sees.
        sigmas: [steps + 1], descending.
        extra_args: for the denoiser; ``seed`` is that of the sampler's noise.
        callback: called at every step with x, i, sigma, denoised of the clip's frames.
        options: further keywords of the sampler.

    Raises:
        ValueError: an unknown sampler, or a group larger than the clip.
    """
    function, run = named_sampler(sampler), denoise.start(sigmas)
    if run is None or denoise.plan is None:
        return function(denoise, x, sigmas, extra_args=extra_args, callback=callback, disable=True, **options)
    rows = denoise.plan.reference_frames(denoise.frames)
    extra_args = {**(extra_args or {}), "run": run}
    return sample_with_rows(rows, function, denoise, x, sigmas, extra_args, callback, True, **options)
