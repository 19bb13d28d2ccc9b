"""Samplers by the ComfyUI host's names, in k-diffusion's calling convention.

All of them solve dx / dsigma = (x - D(x, sigma)) / sigma in the space x = x_0 + sigma eps, where
``model(x, sigma[B], **extra_args) -> D`` predicts x_0. Each row of the batch goes its own way:
nothing is measured over the batch, and what noise a sampler draws is set by ``noise_sampler``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from .sampling import report, sample_euler

NoiseSampler = Callable[[Tensor, Tensor], Tensor]


@torch.no_grad()
def sample_heun(
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
) -> Tensor:
    """Heun's method (Karras et al. 2022, algorithm 2 without churn).

    x' = x + (s' - s) d(x, s),   x <- x + (s' - s) (d(x, s) + d(x', s')) / 2,   d = (x - D) / s

    The second evaluation is at the *next* sigma; the step to 0 has none. Arguments as in
    ``sample_euler``.
    """
    extra_args = extra_args or {}
    ones = x.new_ones(x.shape[0])
    for i in range(len(sigmas) - 1):
        sigma, target = sigmas[i].to(x), sigmas[i + 1].to(x)
        denoised = model(x, sigma * ones, **extra_args)
        report(callback, x, i, sigmas, denoised)
        slope = (x - denoised) / sigma
        guess = x + (target - sigma) * slope
        if target > 0:
            slope = (slope + (guess - model(guess, target * ones, **extra_args)) / target) / 2
            guess = x + (target - sigma) * slope
        x = guess
    return x


@torch.no_grad()
def sample_dpmpp_2m(
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2), which remembers the last D.

    With h = log(s / s') and r = h_last / h:
    D* = D + (D - D_last) / (2 r),   x <- (s' / s) x + (1 - s' / s) D*.

    The first step and the step to 0 take D itself. Arguments as in ``sample_euler``.
    """
    extra_args = extra_args or {}
    ones = x.new_ones(x.shape[0])
    last = None
    for i in range(len(sigmas) - 1):
        sigma, target = sigmas[i].to(x), sigmas[i + 1].to(x)
        denoised = model(x, sigma * ones, **extra_args)
        report(callback, x, i, sigmas, denoised)
        solution = denoised
        if last is not None and target > 0:
            ratio = (sigmas[i - 1].to(x) / sigma).log() / (sigma / target).log()
            solution = denoised + (denoised - last) / (2 * ratio)
        x = target / sigma * x + (1 - target / sigma) * solution
        last = denoised
    return x


@torch.no_grad()
def sample_euler_ancestral(
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
    *,
    eta: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """Euler's step below the target, and fresh noise back up to it.

    s_up = min(s', eta s' sqrt(1 - (s' / s)^2)),   s_down = sqrt(s'^2 - s_up^2),
    x <- x + (s_down - s) (x - D) / s + s_up noise.  At eta 0 it is DDIM.

    Args:
        eta: share of the noise; 1 is ancestral sampling.
        noise_sampler: (sigma, next sigma) -> standard normal noise shaped like x. Without it
            ``seeded_noise`` of ``extra_args["seed"]``.

    The other arguments as in ``sample_euler``.
    """
    extra_args = extra_args or {}
    noise_sampler = noise_sampler or seeded_noise(x, extra_args.get("seed"))
    ones = x.new_ones(x.shape[0])
    for i in range(len(sigmas) - 1):
        sigma, target = sigmas[i].to(x), sigmas[i + 1].to(x)
        denoised = model(x, sigma * ones, **extra_args)
        report(callback, x, i, sigmas, denoised)
        up = torch.minimum(target, eta * target * (1 - (target / sigma) ** 2).clamp(min=0).sqrt())
        down = (target**2 - up**2).clamp(min=0).sqrt()
        x = x + (down - sigma) * (x - denoised) / sigma
        if target > 0:
            x = x + up * noise_sampler(sigmas[i], sigmas[i + 1])
    return x


def seeded_noise(x: Tensor, seed: int | None = None) -> NoiseSampler:
    """Standard normal noise shaped like x from one generator.

    As in the host, the generator starts at seed + 1 on the CPU, so that it does not repeat
    the initial noise of the same seed; without a seed PyTorch's global generator is used.
    """
    generator = None
    if seed is not None:
        generator = torch.Generator(device=x.device).manual_seed(seed + (x.device.type == "cpu"))
    return lambda sigma, target: torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)


#: Samplers by the host's name. "ddim" is Euler's method in sigma space, there as here.
SAMPLERS: Mapping[str, Callable[..., Tensor]] = MappingProxyType(
    {
        "euler": sample_euler,
        "ddim": sample_euler,
        "heun": sample_heun,
        "dpmpp_2m": sample_dpmpp_2m,
        "euler_ancestral": sample_euler_ancestral,
    }
)


#: Those of them that draw noise on the way.
STOCHASTIC = frozenset({"euler_ancestral"})


def named_sampler(sampler: str | Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A sampler of ``SAMPLERS`` by its name; a function is returned as it is.

    Raises:
        ValueError: an unknown name.
    """
    if callable(sampler):
        return sampler
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler: this host knows {', '.join(SAMPLERS)}, but not {sampler!r}.")
    return SAMPLERS[sampler]
