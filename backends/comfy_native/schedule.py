"""The place of one run of a sampler in its whole schedule."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

log = logging.getLogger(__name__)


def whole_schedule(sigmas: Tensor, adds_noise: bool, method: str) -> tuple[Tensor, int]:
    """The noise levels of the schedule that a run is part of, and the step at which it begins there.

    The host cuts a part of a schedule out as a view of all of it (KSamplerAdvanced's start and end, SplitSigmas), so
    that the rest can still be read. A run that adds no noise and begins within a schedule goes on with an earlier
    one; a run that ends above 0 is to be gone on with. A run with noise of its own is one by itself (denoise < 1).

    Args:
        sigmas: [n + 1] of the run, descending.
        adds_noise: whether the run starts from noise of its own.
        method: for the warning.

    Returns:
        levels [steps + 1], descending, float64 on the CPU, and the number of the run's first step.
    """
    run = sigmas.detach().double().cpu()
    if len(run) > 1 and float(run[-1]) > float(run[0]):
        return run.flip(0), 0  # an inversion's, which is one by itself
    before, after = (part.double().cpu() for part in around(sigmas))
    first = 0
    if not adds_noise and len(before) and falls(torch.cat([before, run])):
        run, first = torch.cat([before, run]), len(before)
    if float(run[-1]) > 0:
        if len(after) and falls(torch.cat([run, after])):
            run = torch.cat([run, after])
        else:
            log.warning("sigmas: end at %.3g instead of 0, and the host does not tell what follows; %s counts the "
                        "steps of this run alone.", float(run[-1]), method)
    return run, first


def around(sigmas: Tensor) -> tuple[Tensor, Tensor]:
    """What lies before and behind a vector in the tensor that it was cut from."""
    sigmas = sigmas.detach()
    if sigmas.ndim != 1 or not sigmas.is_contiguous():
        return sigmas[:0], sigmas[:0]
    size = sigmas.untyped_storage().nbytes() // sigmas.element_size()
    whole = torch.as_strided(sigmas, (size,), (1,), 0)
    start = sigmas.storage_offset()
    return whole[:start], whole[start + len(sigmas) :]


def falls(sigmas: Tensor) -> bool:
    """Whether finite noise levels fall all the way."""
    return bool(sigmas.isfinite().all()) and bool((sigmas[1:] < sigmas[:-1]).all()) and float(sigmas[-1]) >= 0
