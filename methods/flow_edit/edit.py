"""FlowEdit's path from a source to its edit.

Kulikov et al. 2024, algorithm 1, at noise levels sigma_n > ... > sigma_0 = 0:

    x_src = (1 - sigma_i) X_src + sigma_i eps,   x_tar = Z + x_src - X_src,   eps drawn anew
    Z <- Z + (sigma_{i-1} - sigma_i) mean over n_avg of [v_tar(x_tar, sigma_i) - v_src(x_src, sigma_i)]

for i = n_max ... n_min + 1 from Z = X_src; the last n_min steps sample x_tar under the target alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SOURCE, TARGET = "source", "target"

#: v(x, sigma, side): the guided velocity eps - x_0 under one of the two sides.
Velocity = Callable[[Tensor, Tensor, str], Tensor]


@dataclass(frozen=True, eq=False)
class FlowEditPrompts:
    """The two sides, each a CONDITIONING with its own guidance.

    Args:
        source, target: what the clip shows, and what the edit shall show.
        negative, source_negative: of the target's and of the source's guidance; None where the guidance is 1.
        source_guidance, target_guidance: v_neg + guidance (v - v_neg).

    Raises:
        ValueError: a guidance other than 1 without a negative.
    """

    source: Any
    target: Any
    negative: Any = None
    source_negative: Any = None
    source_guidance: float = 3.5
    target_guidance: float = 13.5

    def __post_init__(self) -> None:
        for name, scale, negative in (("source_guidance", self.source_guidance, self.source_negative),
                                      ("target_guidance", self.target_guidance, self.negative)):
            if scale != 1 and negative is None:
                raise ValueError(f"{name}: {scale:g} guides away from a negative prompt, but none is connected; "
                                 f"connect negative, or set {name} to 1.")


@dataclass(frozen=True, eq=False)
class FlowEdit:
    """How far an edit may go. The defaults are the paper's for Stable Diffusion 3, at 50 steps.

    Args:
        n_max: steps that are taken, the last of the schedule; fewer keep more of the source.
        n_min: of those, the last ones that sample under the target alone.
        n_avg: draws of noise that a step averages.
        shared_noise: one eps for all rows of the batch, which are frames of one clip to an image model.
        mask: MASK, 1 where to edit; None: everywhere.
        soft: cells that the mask covers partly move by that part; else wholly.

    Raises:
        ValueError: numbers that are no FlowEdit.
    """

    n_max: int = 33
    n_min: int = 0
    n_avg: int = 1
    shared_noise: bool = True
    mask: Tensor | None = None
    soft: bool = True

    def __post_init__(self) -> None:
        if self.n_max < 1 or self.n_avg < 1 or self.n_min < 0:
            raise ValueError(f"n_max: expected n_max and n_avg of at least 1 and n_min of at least 0, but got "
                             f"{self.n_max}, {self.n_avg} and {self.n_min}.")
        if self.n_min > self.n_max:
            raise ValueError(f"n_min: {self.n_min} steps at the end are more than the {self.n_max} of n_max; lower "
                             "n_min.")

    def draws(self, shape: torch.Size, seed: int) -> Callable[[], Tensor]:
        """A function that draws eps, float32 on the CPU, one after the other from one seed."""
        generator = torch.Generator().manual_seed(seed)
        rows = (1, *shape[1:]) if self.shared_noise else tuple(shape)
        return lambda: torch.randn(rows, generator=generator).expand(shape)


def check_sigmas(sigmas: Tensor, settings: FlowEdit) -> None:
    """Raise ValueError unless these are noise levels of a flow that FlowEdit can step through."""
    levels = sigmas.detach().double().cpu()
    if levels.ndim != 1 or len(levels) < 2 or not (levels[1:] < levels[:-1]).all() or float(levels[-1]) != 0:
        raise ValueError("sigmas: FlowEdit needs noise levels that descend to 0; connect a scheduler's, whole.")
    if float(levels[0]) > 1:
        raise ValueError(f"sigmas: begin at {float(levels[0]):.4g}, but a flow model's noise levels end at 1; connect "
                         "a scheduler of this model.")
    if settings.n_max > len(levels) - 1:
        raise ValueError(f"n_max: {settings.n_max} steps are more than the {len(levels) - 1} that the sigmas have; set "
                         f"n_max to {len(levels) - 1} or less, or give the scheduler more steps.")


def flow_edit(velocity: Velocity, noisy: Callable[[Tensor, Tensor], Tensor], draw: Callable[[], Tensor],
              source: Tensor, sigmas: Tensor, settings: FlowEdit, keep: Tensor | None = None,
              report: Callable[[int, Tensor, Tensor], None] | None = None) -> Tensor:
    """The edited X_src.

    Args:
        velocity: see ``Velocity``; x like ``source``, sigma of shape [].
        noisy: the source's x_sigma from sigma and eps.
        draw: eps, like ``source``.
        source: X_src, the model's scale, any shape.
        sigmas: see ``check_sigmas``, of the whole schedule.
        keep: 0 .. 1, broadcast against ``source``; where it is 1 the source comes out bit for bit.
        report: called before every step with its number, x and the edit as this step foresees it.

    Raises:
        ValueError: as ``check_sigmas``.
    """
    check_sigmas(sigmas, settings)
    levels, moves = sigmas[-(settings.n_max + 1):], 1.0 if keep is None else 1 - keep
    z = source
    alone = settings.n_max - settings.n_min
    for i in range(alone):
        now, step = levels[i], levels[i + 1] - levels[i]
        delta = _mean_difference(velocity, noisy, draw, source, z, now, settings.n_avg) * moves
        if report is not None:
            report(i, z, z - now * delta)
        z = z + step * delta
    if not settings.n_min:
        return z
    eps = draw()
    x = z + noisy(levels[alone], eps) - source
    for i in range(alone, settings.n_max):
        now, then = levels[i], levels[i + 1]
        v = velocity(x, now, TARGET)
        if report is not None:
            report(i, x, x - now * v)
        x = x + (then - now) * v
        if keep is not None:
            x = x * moves + noisy(then, eps) * keep
    return x


def _mean_difference(velocity: Velocity, noisy: Callable[[Tensor, Tensor], Tensor], draw: Callable[[], Tensor],
                     source: Tensor, z: Tensor, sigma: Tensor, count: int) -> Tensor:
    """The mean of v_tar - v_src over ``count`` draws of noise."""
    total = torch.zeros_like(source)
    for _ in range(count):
        x_source = noisy(sigma, draw())
        total = total + velocity(z + x_source - source, sigma, TARGET) - velocity(x_source, sigma, SOURCE)
    return total / count
