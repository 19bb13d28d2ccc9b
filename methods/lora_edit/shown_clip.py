"""A short clip in the middle of a training: what the model makes of its first sample by now."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...diffusion.flow import RectifiedFlow
from .choices import SHOWN_STEPS

if TYPE_CHECKING:
    from PIL.Image import Image

#: The shift of the noise levels, and how many pictures of the clip are shown.
SHIFT, PICTURES = 5.0, 4


def levels(process: RectifiedFlow, steps: int = SHOWN_STEPS) -> Tensor:
    """Noise levels [steps + 1] from the process's highest to its lowest: s t / (1 + (s - 1) t) for even t, stretched
    into its range."""
    even = torch.linspace(1, 0, steps + 1)
    return process.lowest + (process.highest - process.lowest) * SHIFT * even / (1 + (SHIFT - 1) * even)


def sampled(
    velocity: Callable[[Tensor, Tensor], Tensor], clean: Tensor, process: RectifiedFlow, seed: int,
    steps: int = SHOWN_STEPS,
) -> Tensor:
    """x_0 by Euler's method on dx / dsigma = v(x, sigma), from noise alone where the range begins at 1.

    An expert of Wan 2.2 begins with the noise of its own range on the source, and where its range ends above 0, the
    rest of the noise is taken off at once.

    Args:
        velocity: of (x, sigma), sigma of shape []; called ``steps`` times.
        clean: the source's latents [1, channels, T', h, w] in the model's scale.
    """
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed)).to(clean)
    sigmas = levels(process, steps)
    x = predicted = process.add_noise(clean, noise, sigmas[0])
    for now, then in zip(sigmas[:-1], sigmas[1:], strict=True):
        predicted = velocity(x, now).to(x)
        x = x + (then - now).to(x) * predicted
    return process.remove_noise(x, predicted, sigmas[-1])


def strip(clip: Tensor, picture: Callable[[Tensor], Image], count: int = PICTURES) -> Image:
    """Frames of a clip's latents, evenly spaced from the first to the last, two in a row.

    Args:
        clip: [1, channels, T', h, w].
        picture: draws latents of one frame, [1, channels, 1, h, w].
    """
    from PIL import Image

    places = torch.linspace(0, clip.shape[2] - 1, min(count, clip.shape[2])).round().long().tolist()
    drawn = [picture(clip[:, :, place : place + 1]) for place in places]
    width, height = drawn[0].size
    columns = min(2, len(drawn))
    whole = Image.new("RGB", (columns * width, -(-len(drawn) // columns) * height))
    for number, one in enumerate(drawn):
        whole.paste(one, (number % columns * width, number // columns * height))
    return whole
