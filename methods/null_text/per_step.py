"""A text for every step of a sampler, in the form in which hosts choose one by the noise level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

#: Noise levels of Stable Diffusion, whose last is 0 % of a sampler's way.
LAST = 999


def per_step_conditioning(texts: Sequence[Tensor], timesteps: Sequence[int], extra: Mapping[str, Any]
                          ) -> list[list[Any]]:
    """One entry a step, at work in a range of noise levels (as of the host's Conditioning Set Timestep Range).

    The ranges meet half-way between the steps' own levels, so that every level has one text and each step its own.

    Args:
        texts: [1 or frames, tokens, channels] each.
        timesteps: of the steps, descending.
        extra: what else every entry holds, such as the pooled text.

    Returns:
        CONDITIONING.
    """
    borders = [1 - (a + b) / 2 / LAST for a, b in zip(timesteps[:-1], timesteps[1:], strict=True)]
    ranges = zip([0.0, *borders], [*borders, 1.0], strict=True)
    return [[text, {**extra, "start_percent": start, "end_percent": end}]
            for text, (start, end) in zip(texts, ranges, strict=True)]  # fmt: skip
