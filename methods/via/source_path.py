"""The noise that goes with a clip's path under a flow model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class PathNoise:
    """A NOISE of the host's kind.

    Args:
        seed: of the draws.
        shared: rows of the batch, which are frames of one clip, get the same noise.
        inverted: the noise that an inversion has found; nothing is drawn then.
    """

    seed: int
    shared: bool = True
    inverted: Tensor | None = None

    def generate_noise(self, latent: dict[str, Any]) -> Tensor:
        """eps like the LATENT's samples, float32 on the CPU; the host calls this.

        Raises:
            ValueError: the inversion was of another clip.
        """
        shape = latent["samples"].shape
        if self.inverted is not None:
            if self.inverted.shape != shape:
                raise ValueError(f"latent_image: {list(shape)} is another shape than the {list(self.inverted.shape)} "
                                 "that Source Path has inverted; connect the latent of that node.")
            return self.inverted
        rows = (1, *shape[1:]) if self.shared else tuple(shape)
        return torch.randn(rows, generator=torch.Generator().manual_seed(self.seed)).expand(shape).clone()


def noise_at_top(x: Tensor, clean: Tensor, sigma: float) -> Tensor:
    """The eps of x = (1 - sigma) x_0 + sigma eps, so that a sampler that adds it to the clip begins at x.

    Args:
        x, clean: latents of one shape, in the model's scale.
        sigma: the highest noise level, more than 0.
    """
    return (x - (1 - sigma) * clean) / sigma
