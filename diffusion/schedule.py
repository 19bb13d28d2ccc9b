"""The discrete noise schedule of Stable Diffusion, in both of its scales.

Variance preserving (training): x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps.
Sigma space (sampling):         x   = x_0 + sigma eps, sigma_t = sqrt((1 - abar_t) / abar_t).
The two differ by the factor sqrt(1 + sigma^2) = 1 / sqrt(abar_t).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class DiscreteSchedule:
    """A schedule of T timesteps.

    Args:
        alphas_cumprod: abar_t, float64, shape [T], descending.
    """

    alphas_cumprod: Tensor

    @classmethod
    def scaled_linear(cls, beta_start: float = 0.00085, beta_end: float = 0.012, steps: int = 1000) -> DiscreteSchedule:
        """Betas linear in their square roots: Stable Diffusion's own."""
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float64) ** 2
        return cls((1 - betas).cumprod(0))

    @cached_property
    def sigmas(self) -> Tensor:
        """sigma_t for t = 0 .. T-1, float64, ascending."""
        return ((1 - self.alphas_cumprod) / self.alphas_cumprod) ** 0.5

    def __len__(self) -> int:
        return self.alphas_cumprod.shape[0]

    def timestep(self, sigma: Tensor) -> Tensor:
        """The index whose log sigma is nearest, as the ComfyUI host looks it up.

        Args:
            sigma: any shape, any device, larger than zero.

        Returns:
            int64 of the same shape and device.
        """
        log_sigmas = self.sigmas.log()
        log_sigma = sigma.detach().to("cpu", torch.float64).log()
        return (log_sigma.reshape(1, -1) - log_sigmas[:, None]).abs().argmin(0).view(sigma.shape).to(sigma.device)

    def sigma(self, timestep: Tensor) -> Tensor:
        """sigma at a possibly fractional timestep, linear in log sigma; float64."""
        log_sigmas = self.sigmas.log()
        t = timestep.detach().to("cpu", torch.float64).clamp(0, len(self) - 1)
        low, high, part = t.floor().long(), t.ceil().long(), t.frac()
        return torch.lerp(log_sigmas[low], log_sigmas[high], part).exp().to(timestep.device)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Timesteps of one training step, uniform over the schedule, int64."""
        return torch.randint(len(self), shape, generator=generator)

    def middle(self) -> Tensor:
        """The timestep half-way through the schedule, shape []."""
        return torch.tensor(len(self) // 2)

    def target(self, clean: Tensor, noise: Tensor) -> Tensor:
        """What the network predicts of ``add_noise``'s outcome: the noise."""
        return noise

    def add_noise(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, the training scale.

        Args:
            clean, noise: [frames, channels, height, width] in the model's latent scale.
            timestep: integer index, shape [] or [frames].
        """
        signal, spread = self._coefficients(timestep, clean)
        return signal * clean + spread * noise

    def remove_noise(self, noisy: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """x_0 = (x_t - sqrt(1 - abar_t) eps) / sqrt(abar_t), the inverse of ``add_noise``."""
        signal, spread = self._coefficients(timestep, noisy)
        return (noisy - spread * noise) / signal

    def _coefficients(self, timestep: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(abar_t) and sqrt(1 - abar_t), shaped and typed to multiply ``like``."""
        alpha = self.alphas_cumprod[timestep.cpu()].view(-1, *[1] * (like.ndim - 1))
        return alpha.sqrt().to(like), (1 - alpha).sqrt().to(like)

    def starting_noise(self, noise: Tensor, sigma: float) -> Tensor:
        """What the host adds to an empty latent: sqrt(1 + sigma^2) eps at the largest sigma, sigma eps below it.

        Args:
            noise: eps, standard normal, any shape.
            sigma: the first of the noise levels that are sampled.
        """
        largest = float(self.sigmas[-1])
        whole = sigma > largest or math.isclose(largest, sigma, rel_tol=1e-5)
        return noise * (math.sqrt(1 + sigma**2) if whole else sigma)

    def normal_sigmas(self, steps: int) -> Tensor:
        """The host's scheduler "normal": timesteps evenly from T - 1 down to 0, then sigma 0.

        Returns:
            float32 [steps + 1], descending.

        Raises:
            ValueError: ``steps`` is less than 1.
        """
        if steps < 1:
            raise ValueError(f"steps: expected at least 1, but got {steps}.")
        descending = self.sigma(torch.linspace(len(self) - 1, 0, steps, dtype=torch.float64))
        return torch.cat([descending, descending.new_zeros(1)]).float()

    def ddim_sigmas(self, steps: int) -> Tensor:
        """The host's scheduler "ddim_uniform": every (T // steps)-th sigma from t = 1 on.

        Returns:
            float32, descending to 0. ``steps + 1`` values where ``steps`` divides T; where
            it does not, the host's rule gives a few more, and inversion and sampling must
            agree with the host rather than with the number.

        Raises:
            ValueError: ``steps`` is not within 1 .. T - 1.
        """
        if not 1 <= steps < len(self):
            raise ValueError(f"steps: expected 1 to {len(self) - 1}, but got {steps}.")
        ascending = self.sigmas[1 :: len(self) // steps]
        return torch.cat([ascending.flip(0), ascending.new_zeros(1)]).float()


#: the host's schedulers that ``named_sigmas`` knows
SCHEDULERS = ("simple", "sgm_uniform", "ddim_uniform", "normal")


def named_sigmas(schedule: Any, scheduler: str, steps: int, denoise: float = 1.0) -> Tensor:
    """The host's sigmas: float32, descending to 0; the last part of them where ``denoise`` is below 1.

    Args:
        schedule: a ``DiscreteSchedule``, or a ``flow.FlowSchedule``.
        scheduler: one of ``SCHEDULERS``.
        steps: of the sampling.
        denoise: 1 begins at the largest sigma.
    """
    if denoise <= 0:
        return torch.zeros(0)
    total = steps if denoise >= 1 else int(steps / denoise)
    if scheduler == "ddim_uniform":
        return schedule.ddim_sigmas(total)[-(steps + 1) :]
    last = len(schedule) - 1
    if scheduler == "simple":
        times = torch.tensor([last - int(i * len(schedule) / total) for i in range(total)])
    elif scheduler == "sgm_uniform":
        times = torch.linspace(last, 0, total + 1)[:-1]
    else:
        times = torch.linspace(last, 0, total)
    return torch.cat([schedule.sigma(times), torch.zeros(1)]).float()[-(steps + 1) :]
