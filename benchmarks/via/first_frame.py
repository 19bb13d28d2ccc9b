"""AnyV2V as a rival of VIA: the toy video model continues VIA's first frame, led by the source."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...diffusion.schedule import named_sigmas
from ..common.cases import World
from ..lora_edit.methods import Settings, continued

if TYPE_CHECKING:
    from ..common.cases import Case


@cache
def video_world() -> World:
    """The committed video model, loaded where it is needed."""
    return World.load(video=True)


def followed(case: Case, first: Tensor, steps: int | None = None) -> Tensor:
    """Frames of the clip behind its edited first frame, [F, H, W, 3].

    The clip is filled up to 4N + 1 frames with its last one, and is faster and longer than what the video model
    was trained on. Steps and guidance are those of `bench lora_edit`.

    Args:
        first: IMAGE [1, H, W, 3].
        steps: of the sampling, if others.
    """
    settings, world, video = Settings(), video_world(), case.source.frames
    filled = torch.cat([video, video[-1:].expand(-(len(video) - 1) % 4, -1, -1, -1)])
    sigmas = named_sigmas(world.backend.schedule(world.model), "simple", steps or settings.sampling)
    samples = continued(world, world.model, filled, first, world.conditioning(case.truth.caption),
                        world.conditioning(""), sigmas, settings.guidance)  # fmt: skip
    return world.vae.decode(samples)[: len(video)]
