"""A clip's inverted latents at every noise level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

#: Noise levels nearer than this, relatively, are one: schedules are computed in float32 by some hosts.
SAME = 1e-4


@dataclass(frozen=True, eq=False)
class FlowPath:
    """A clip's path under a flow model, known at every noise level without inversion.

    x_sigma = (1 - sigma) x_0 + sigma eps, with the noise eps of the run that follows it.

    Args:
        source: x_0, LATENT samples.
    """

    source: Tensor

    @property
    def shape(self) -> torch.Size:
        """Of the clip."""
        return self.source.shape

    def step_of(self, sigma: float) -> float:
        """Any noise level is its own."""
        return sigma


@dataclass(frozen=True, eq=False)
class Trajectory:
    """x of every frame at ascending noise levels, in the scale of a LATENT.

    ``trajectory[step, ids]`` is [len(ids), channels, height, width]; step 0 is the clip itself.

    Args:
        steps: one tensor [frames, channels, height, width] a noise level; float32 for the
            first, whose values come out of the blend unchanged, float16 is enough for the rest.
        sigmas: [steps + 1], ascending from 0.

    Raises:
        ValueError: their numbers differ, or the noise levels do not ascend from 0.
    """

    steps: Sequence[Tensor]
    sigmas: Tensor

    def __post_init__(self) -> None:
        if len(self.steps) != len(self.sigmas):
            raise ValueError(f"trajectory: {len(self.steps)} latents for {len(self.sigmas)} noise levels.")
        if self.sigmas[0] != 0 or (self.sigmas[1:] <= self.sigmas[:-1]).any():
            raise ValueError("trajectory: its noise levels do not ascend from 0.")

    @property
    def shape(self) -> torch.Size:
        """[frames, channels, height, width]."""
        return self.steps[0].shape

    @property
    def source(self) -> Tensor:
        """The clip itself."""
        return self.steps[0]

    def __getitem__(self, key: tuple[int, Sequence[int] | slice]) -> Tensor:
        step, ids = key
        return self.steps[step][ids if isinstance(ids, slice) else list(ids)]

    def step_of(self, sigma: float) -> int:
        """The step whose noise level is ``sigma``.

        Raises:
            ValueError: there is none. Between two levels nothing is known that the inversion
                has computed, so nothing is made up.
        """
        distance = (self.sigmas.double().cpu() - sigma).abs()
        nearest = int(distance.argmin())
        if distance[nearest] > SAME * max(sigma, float(self.sigmas[1])):
            raise ValueError(
                f"sigmas: sampling passes noise level {sigma:.4g}, but the inversion has {len(self.sigmas) - 1} steps "
                f"and stopped nearest to it at {float(self.sigmas[nearest]):.4g}; sample with the sigmas of "
                "SteadyEditDDIMInversion.")
        return nearest
