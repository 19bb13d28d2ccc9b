"""Rectified flow: straight lines from data to noise, as Wan and HunyuanVideo were trained.

x_sigma = (1 - sigma) x_0 + sigma eps, d x / d sigma = eps - x_0 (Liu et al. 2022; Lipman et al. 2022).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class RectifiedFlow:
    """The process that ``training.NoiseTraining`` draws from, with the velocity as its target.

    Args:
        lowest, highest: sigma is uniform between them, without any shift. A shift belongs to a sampler's
            schedule; the network's embedding of a sigma is the host's, whatever the shift.
    """

    lowest: float = 0.0
    highest: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.lowest < self.highest <= 1:
            raise ValueError(f"sigmas: expected 0 <= lowest < highest <= 1, but got {self.lowest} and {self.highest}.")

    def draw(self, shape: tuple[int, ...], generator: Generator) -> Tensor:
        """Sigmas of one training step, float32."""
        return self.lowest + (self.highest - self.lowest) * torch.rand(shape, generator=generator)

    def middle(self) -> Tensor:
        """The sigma half-way through the range, shape []."""
        return torch.tensor((self.lowest + self.highest) / 2)

    def add_noise(self, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """x_sigma; clean and noise in the model's latent scale, sigma of shape [] or [samples]."""
        wide = sigma.to(clean).reshape(-1, *[1] * (clean.ndim - 1))
        return (1 - wide) * clean + wide * noise

    def target(self, clean: Tensor, noise: Tensor) -> Tensor:
        """eps - x_0, what the network predicts."""
        return noise - clean

    def remove_noise(self, noisy: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
        """x_0 = x_sigma - sigma v, the inverse of ``add_noise`` for a true velocity."""
        return noisy - sigma.to(noisy).reshape(-1, *[1] * (noisy.ndim - 1)) * velocity


@dataclass(frozen=True)
class FlowSchedule:
    """Noise levels that a flow's sampler steps through: s t / (1 + (s - 1) t), t = 1/1000 .. 1.

    Args:
        shift: s; more than 1 spends more steps on noise. It has no part in training.
    """

    shift: float = 1.0

    def __len__(self) -> int:
        return 1000

    def sigma(self, timestep: Tensor) -> Tensor:
        """Sigma of indices 0 .. 999, float32.

        Raises:
            ValueError: fractional indices, whose meaning differs among hosts.
        """
        if timestep.is_floating_point():
            raise ValueError("scheduler: outside of ComfyUI a flow model is sampled with the scheduler simple only.")
        t = (timestep + 1) / len(self)
        return self.shift * t / (1 + (self.shift - 1) * t)

    def ddim_sigmas(self, steps: int) -> Tensor:
        """Raises ValueError: a flow has no such schedule outside of ComfyUI."""
        raise ValueError("scheduler: outside of ComfyUI a flow model is sampled with the scheduler simple only.")

    def starting_noise(self, noise: Tensor, sigma: float) -> Tensor:
        """What is added to an empty latent to begin at ``sigma``.

        Raises:
            ValueError: sigma is below 1, where something of a latent would have to stay.
        """
        if sigma < 1:
            raise ValueError(f"sigmas: begin at {sigma:.3f}, but outside of ComfyUI a flow model begins at 1, from an "
                             "empty latent; set denoise to 1.")
        return noise
