"""DDIM sampling in sigma space, with the calling convention of k-diffusion.

``model(x, sigma[B], **extra_args) -> denoised`` predicts x_0 from x = x_0 + sigma eps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def sample_euler(
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
) -> Tensor:
    """DDIM with eta 0, which is Euler's method in sigma space.

    eps = (x - model(x, sigma)) / sigma;  x <- x + (sigma_next - sigma) eps

    Args:
        x: [B, ...], x at ``sigmas[0]``.
        sigmas: [steps + 1], descending.
        callback: called before every step with x, i, sigma, denoised.
        disable: unused; k-diffusion's place for switching its progress bar off.
    """
    extra_args = extra_args or {}
    ones = x.new_ones(x.shape[0])
    for i in range(len(sigmas) - 1):
        sigma = sigmas[i].to(x)
        denoised = model(x, sigma * ones, **extra_args)
        report(callback, x, i, sigmas, denoised)
        x = x + (sigmas[i + 1].to(x) - sigma) * (x - denoised) / sigma
    return x


def report(
    callback: Callable[[dict[str, Any]], None] | None, x: Tensor, i: int, sigmas: Tensor, denoised: Tensor
) -> None:
    """Tell a sampler's callback, where there is one, what k-diffusion's samplers tell theirs."""
    if callback is not None:
        callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": denoised})


def guided(
    conditional: Callable[..., Tensor], unconditional: Callable[..., Tensor] | None, guidance: float
) -> Callable[..., Tensor]:
    """Classifier-free guidance: D = D_uncond + guidance (D_cond - D_uncond).

    At guidance 1, or without an unconditional model, the conditional model is returned
    itself, so that no evaluation is spent on what would cancel. D maps x and sigma [B] to the denoised x.
    """
    if unconditional is None or guidance == 1:
        return conditional

    def model(x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        negative = unconditional(x, sigma, **extra_args)
        return negative + guidance * (conditional(x, sigma, **extra_args) - negative)

    return model
