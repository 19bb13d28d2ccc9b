"""CONTROL_NET of this backend: a diffusers ``ControlNetModel``, applied as the host's ControlNetApplyAdvanced does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from ...methods.rave import to_grid

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ...diffusion.schedule import DiscreteSchedule

    #: What is added to the U-Net's skips and to its middle.
    Residuals = tuple[list[Tensor], Tensor]

#: Pixels of a hint to a latent cell.
RATIO = 8


@dataclass(frozen=True)
class ControlNet:
    """CONTROL_NET: the network alone."""

    net: nn.Module

    def applied(self, image: Tensor, strength: float, start: float = 0.0, end: float = 1.0,
                previous: Control | None = None) -> Control:
        """The ControlNet under an IMAGE [1 or F, height, width, 3], after those of ``previous``."""
        return Control(self.net, image[..., :3].movedim(-1, 1), strength, start, end, previous)


@dataclass(frozen=True, eq=False)
class Control:
    """``control`` of a CONDITIONING: a ControlNet, its hints, and what was chained before it.

    Args:
        net: a ``ControlNetModel``.
        hint: [1 or frames, 3, height, width] in 0..1.
        strength: factor of its residuals.
        start, end: share of the noise schedule in which it works; 0 is pure noise.
        previous: another one, whose residuals are added.
    """

    net: nn.Module
    hint: Tensor
    strength: float
    start: float = 0.0
    end: float = 1.0
    previous: Control | None = None

    def chain(self) -> list[Control]:
        """This one and those before it, first things first."""
        return [*(self.previous.chain() if self.previous else ()), self]

    def works_at(self, sigma: float, schedule: DiscreteSchedule) -> bool:
        """Whether sigma lies in its share of the schedule."""

        def level(share: float) -> float:
            return float(schedule.sigma(torch.tensor((1 - share) * (len(schedule) - 1))).float())

        return (self.start <= 0 or sigma <= level(self.start)) and (self.end >= 1 or sigma >= level(self.end))

    def hints(self, ids: Sequence[int], grid: int, height: int, width: int) -> Tensor:
        """The hints of frames, or of pictures of ``grid`` x ``grid`` of them.

        Args:
            ids: frames; of n hints, frame i has number i modulo n, as in the host.
            height, width: of a frame's latent.

        Returns:
            [pictures, 3, 8 grid height, 8 grid width].
        """
        fitted = fit(self.hint, RATIO * height, RATIO * width)
        return to_grid(fitted[[i % len(fitted) for i in ids]], grid)


def fit(images: Tensor, height: int, width: int) -> Tensor:
    """Images [n, channels, H, W] cut to the proportions around their centre and resized, nearest, as the host does."""
    old_height, old_width = images.shape[-2:]
    if (old_height, old_width) == (height, width):
        return images
    wanted_width, wanted_height = old_height * width / height, old_width * height / width
    left = round((old_width - wanted_width) / 2) if old_width > wanted_width else 0
    top = round((old_height - wanted_height) / 2) if old_height > wanted_height else 0
    cut = images[..., top : old_height - top, left : old_width - left]
    return F.interpolate(cut, size=(height, width), mode="nearest-exact")


def residuals_of(
    control: Control | None, x: Tensor, timestep: Tensor, text: Tensor, sigma: float, schedule: DiscreteSchedule,
    ids: Sequence[int], grid: int = 1, added: Mapping[str, Tensor] | None = None,
) -> Residuals | None:  # fmt: skip
    """What a condition's ControlNets add to the U-Net.

    Args:
        control: of the condition.
        x: [pictures, channels, h, w] as the U-Net sees it; timestep [pictures]; text [pictures, tokens, C].
        sigma: noise level of the call.
        ids: frames of the pictures, ``grid``^2 of them each.
        added: see ``conditioning.added_of``; SDXL's ControlNets read it too.

    Returns:
        Their sum; None where there is none at work.
    """
    height, width = (side // grid for side in x.shape[-2:])
    found = None
    for one in control.chain() if control else ():
        if not one.works_at(sigma, schedule):
            continue
        place = {"device": one.net.device, "dtype": one.net.dtype}
        down, middle = one.net(
            x.to(**place), timestep.to(one.net.device), encoder_hidden_states=text.to(**place),
            added_cond_kwargs=added and {key: value.to(**place) for key, value in added.items()},
            controlnet_cond=one.hints(ids, grid, height, width).to(**place), conditioning_scale=one.strength,
            return_dict=False)
        if found is not None:
            down, middle = [a + b for a, b in zip(found[0], down, strict=True)], found[1] + middle
        found = list(down), middle
    return found


def added_up(branches: Sequence[Residuals | None]) -> Residuals | None:
    """The residuals of all conditions of a call in one batch, zeros for those without; None where none has any."""
    shape = next((residuals for residuals in branches if residuals is not None), None)
    if shape is None:
        return None
    silent = [torch.zeros_like(part) for part in shape[0]], torch.zeros_like(shape[1])
    whole = [residuals or silent for residuals in branches]
    return [torch.cat(parts) for parts in zip(*(down for down, _ in whole), strict=True)], torch.cat(
        [middle for _, middle in whole])
