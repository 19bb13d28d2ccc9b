"""AnyV2V's two runs: the source's inversion, and the edit's sampling from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from ...diffusion.inversion import flow_inversion
from .injection import Features, Injection

#: Steps of the inversion for one of the sampling. Of first order the authors take ten; these are of second order.
FINER = 2


class Network(Protocol):
    """A video transformer that predicts eps - x_0, opened for what AnyV2V reads and changes."""

    def velocity(self, x: Tensor, sigma: Tensor, conditioning: Any) -> Tensor:
        """v_theta, as the network is."""

    def reading(self, x: Tensor, sigma: Tensor, conditioning: Any) -> Features:
        """What ``velocity`` computes on its way."""

    def injected(self, x: Tensor, sigma: Tensor, conditioning: Any, source: Features, taken: dict[str, bool]) -> Tensor:
        """v_theta with what ``Injection.at`` says taken from the source."""


@torch.no_grad()
def edit(network: Network, source: Tensor, sigmas: Tensor, source_conditioning: Any, positive: Any,
         negative: Any = None, guidance: float = 1.0, injection: Injection | None = None,
         report: Callable[[int], None] | None = None) -> Tensor:
    """The edited clip.

    Args:
        source: x_0 of the source, the model's scale, [1, channels, frames, h, w].
        sigmas: of the sampling, descending to 0.
        source_conditioning: the source's first frame under the empty prompt.
        positive, negative: the edited first frame under the edit's prompt and under the negative one; the negative
            is needed where guidance is not 1.
        report: called after each step with the steps done, those of the inversion first, FINER for one.

    Raises:
        ValueError: more steps skipped than there are, or guidance without a negative.
    """
    injection, steps = injection or Injection(), len(sigmas) - 1
    if injection.skipped >= steps:
        raise ValueError(f"skipped: {injection.skipped} of {steps} steps leave none to sample; skip fewer.")
    if guidance != 1 and negative is None:
        raise ValueError(f"guidance: {guidance:g} guides away from a negative prompt, but none is connected.")
    report, levels = report or (lambda done: None), finer(sigmas.flip(0))
    path = flow_inversion(
        lambda x, sigma: x - sigma.reshape(-1)[0] * network.velocity(x, sigma.reshape(-1)[0], source_conditioning),
        source, levels, callback=lambda state: report(state["i"] + 1))[::-FINER]
    x = path[injection.skipped]
    for step in range(injection.skipped, steps):
        now, then = sigmas[step].to(x), sigmas[step + 1].to(x)
        taken = injection.at(step, steps)
        kept = network.reading(path[step], now, source_conditioning) if any(taken.values()) else Features()
        v = network.injected(x, now, positive, kept, taken)
        if guidance != 1:
            free = network.injected(x, now, negative, kept, taken)
            v = free + guidance * (v - free)
        x = x + (then - now) * v
        report(len(levels) + step)
    return x


def finer(sigmas: Tensor) -> Tensor:
    """The levels with FINER - 1 more between each two, evenly."""
    between = torch.arange(FINER) / FINER
    parts = sigmas[:-1, None] + (sigmas[1:] - sigmas[:-1])[:, None] * between.to(sigmas)
    return torch.cat([parts.flatten(), sigmas[-1:]])
