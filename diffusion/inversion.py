"""Inversion: the noise from which sampling returns to a given picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def ddim_inversion(
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
    *,
    refinement: int = 0,
) -> list[Tensor]:
    """Run the DDIM step backwards, from a clean latent up to the highest sigma.

    The step down from s_t (target) to s_c (current) was x_c = x_t + (s_c - s_t) eps(x_t, s_t).
    Inverting it needs eps at the x_t that is being sought. DDIM inversion (Song et al. 2021)
    takes eps at the *target* noise level but at the *current* latent. The U-Net sees x in
    the variance-preserving scale, where the current latent is x / sqrt(1 + s_c^2); in sigma
    space at s_t the same U-Net input is

        x' = x sqrt((1 + s_t^2) / (1 + s_c^2)),   eps = (x' - model(x', s_t)) / s_t,
        x_next = x + (s_t - s_c) eps.

    Each refinement evaluates eps again at the x_next just found: a fixed-point iteration
    whose limit is the exact inverse of the DDIM step.

    Args:
        model: k-diffusion denoiser, ``model(x, sigma[B], **extra_args) -> x_0``.
        x: [B, ...], clean latent (sigma 0), or what an earlier inversion reached.
        sigmas: [steps + 1], ascending, from that of x.
        callback: called after every step with x, i, sigma, denoised.
        disable: unused; k-diffusion's place for switching its progress bar off.
        refinement: fixed-point iterations per step; each costs one more evaluation.

    Returns:
        x at every sigma, ``steps + 1`` tensors; the first is the input.

    Raises:
        ValueError: ``sigmas`` do not ascend.
    """
    if len(sigmas) < 2 or sigmas[0] < 0 or not (sigmas[1:] > sigmas[:-1]).all():
        raise ValueError("sigmas: DDIM inversion needs them ascending; flip the sampler's sigmas.")
    extra_args = extra_args or {}
    ones = x.new_ones(x.shape[0])
    trajectory = [x]
    for i in range(len(sigmas) - 1):
        current, target = sigmas[i].to(x), sigmas[i + 1].to(x)
        guess = x * ((1 + target**2) / (1 + current**2)).sqrt()
        for _ in range(refinement + 1):
            denoised = model(guess, target * ones, **extra_args)
            guess = x + (target - current) * (guess - denoised) / target
        x = guess
        trajectory.append(x)
        if callback is not None:
            callback({"x": x, "i": i, "sigma": sigmas[i + 1], "sigma_hat": sigmas[i + 1], "denoised": denoised})
    return trajectory


@torch.no_grad()
def flow_inversion(
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
) -> list[Tensor]:
    """Run a flow's d x / d sigma = v(x, sigma) from the clip up to the highest sigma, to second order.

    RF-Solver (Wang et al. 2024, equation 8, with its derivative of v by the half step): v at the middle of each step,

        x' = x + h / 2 v(x, s),   x_next = x + h v(x', s + h / 2).

    At sigma 0 the denoiser tells nothing of v; there the first of the two is taken at the middle, too, which leaves
    the order as it is.

    Args:
        model: k-diffusion denoiser, ``model(x, sigma[B], **extra_args) -> x_0`` with v = (x - x_0) / sigma.
        x: [B, ...], the clip in the model's scale.
        sigmas: [steps + 1], ascending from 0.
        callback, disable: as in ``ddim_inversion``.

    Returns:
        x at every sigma, ``steps + 1`` tensors; the first is the input.

    Raises:
        ValueError: ``sigmas`` do not ascend from 0.
    """
    if len(sigmas) < 2 or sigmas[0] != 0 or not (sigmas[1:] > sigmas[:-1]).all():
        raise ValueError("sigmas: the inversion needs them ascending from 0; flip the sampler's, whole.")
    extra_args = extra_args or {}
    ones = x.new_ones(x.shape[0])

    def velocity(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        denoised = model(x, sigma * ones, **extra_args)
        return (x - denoised) / sigma, denoised

    path = [x]
    for i in range(len(sigmas) - 1):
        now, then = sigmas[i].to(x), sigmas[i + 1].to(x)
        middle = (now + then) / 2
        half = x + (middle - now) * velocity(x, now if i else middle)[0]
        v, denoised = velocity(half, middle)
        x = x + (then - now) * v
        path.append(x)
        if callback is not None:
            callback({"x": x, "i": i, "sigma": sigmas[i + 1], "sigma_hat": sigmas[i + 1], "denoised": denoised})
    return path
