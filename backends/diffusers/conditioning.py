"""CONDITIONING of the host's format as what a U-Net reads: text, an image's latent beside the noise, SDXL's sizes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from .families import family_of

if TYPE_CHECKING:
    from torch import Tensor

    from ...diffusion.schedule import DiscreteSchedule


ONE = "{name}: expected one condition, but got {count}; this host combines none."


def text_of(conditioning: Any, frames: int, name: str = "conditioning") -> Tensor:
    """Text tokens for every frame of a clip.

    Args:
        conditioning: ``[[tensor [1 or frames, tokens, C], {...}]]``.
        frames: of the clip.
        name: of the input, for the message.

    Returns:
        [frames, tokens, C], without a copy where one text serves all frames.

    Raises:
        ValueError: several conditions, or a number of texts that fits no frame.
    """
    if len(conditioning) != 1:
        raise ValueError(ONE.format(name=name, count=len(conditioning)))
    text = conditioning[0][0]
    if text.shape[0] not in (1, frames):
        raise ValueError(f"{name}: holds {text.shape[0]} texts, but the clip has {frames} frames; "
                         f"give one for all of them or {frames}.")
    return text.expand(frames, -1, -1)


def spans_of(conditioning: Any, schedule: DiscreteSchedule, name: str = "conditioning"
             ) -> list[tuple[float, float, Any]]:
    """The noise levels in which each entry is at work, as of the host's Conditioning Set Timestep Range: from, down
    to, and the entry as a CONDITIONING of its own.

    Raises:
        ValueError: several entries are at work at once, or at some level none.
    """
    if len(conditioning) > 1 and not any({"start_percent", "end_percent"} & set(extra) for _, extra in conditioning):
        raise ValueError(ONE.format(name=name, count=len(conditioning)))
    ends = [(extra.get("start_percent", 0.0), extra.get("end_percent", 1.0)) for _, extra in conditioning]
    entries = sorted(zip(ends, ([entry] for entry in conditioning), strict=True), key=lambda entry: entry[0])
    borders = [end for (_, end), _ in entries]
    if [start for (start, _), _ in entries] != [0.0, *borders[:-1]] or borders[-1] != 1.0:
        raise ValueError(f"{name}: expected one condition at every noise level, but its {len(conditioning)} overlap or "
                         "leave some out; this host combines none.")

    def level(percent: float) -> float:
        return float(schedule.sigma(torch.tensor((1 - percent) * (len(schedule) - 1), dtype=torch.float64)))

    return [(math.inf if start <= 0 else level(start), 0.0 if end >= 1 else level(end), entry)
            for (start, end), entry in entries]  # fmt: skip


def with_image(unet: Any, noisy: Tensor, conditioning: Any, name: str = "conditioning") -> Tensor:
    """x with the condition's ``concat_latent_image`` as further channels, for a U-Net that takes an image.

    Args:
        unet: with twice as many input channels as ``noisy`` if it takes an image.
        noisy: [frames, channels, h, w].
        conditioning: its image [1 or frames, channels, h, w] is used as it is; zeros where it has none.
        name: of the input, for the message.

    Raises:
        ValueError: an image of another size or for another number of frames.
    """
    if unet.config.in_channels == noisy.shape[1]:
        return noisy
    image = image_of(conditioning, len(noisy), name)
    if image is None:
        image = torch.zeros_like(noisy)
    if image.shape[1:] != noisy.shape[1:]:
        raise ValueError(f"{name}: its image has the latent shape {tuple(image.shape[1:])}, but the clip "
                         f"{tuple(noisy.shape[1:])}; make both from the same frames.")
    return torch.cat([noisy, image.to(noisy)], 1)


def image_of(conditioning: Any, frames: int, name: str = "conditioning") -> Tensor | None:
    """The ``concat_latent_image`` for every frame of a clip: raw latents, which the U-Net sees as they are.

    Returns:
        [frames, channels, h, w], without a copy where one image serves all frames; None where
        the condition has none.

    Raises:
        ValueError: a number of images that fits no frame.
    """
    image = conditioning[0][1].get("concat_latent_image")
    if image is None:
        return None
    if len(image) not in (1, frames):
        raise ValueError(f"{name}: holds {len(image)} images, but the clip has {frames} frames; "
                         f"give one for all of them or {frames}.")
    return image.expand(frames, -1, -1, -1)


#: The host's keys of SDXL's size condition, in the U-Net's order, and the key whose value stands in for each.
SIZES = {"height": None, "width": None, "crop_h": None, "crop_w": None, "target_height": "height",
         "target_width": "width"}  # fmt: skip
PIXELS_PER_CELL = 8


def added_of(unet: Any, conditioning: Any, frames: int, size: tuple[int, int],
             name: str = "conditioning") -> dict[str, Tensor] | None:  # fmt: skip
    """What an SDXL U-Net reads beside its text: the pooled text, and the sizes (Podell et al. 2023, section 2.2).

    Where the condition names no size, that of the clip is taken, as in the ComfyUI host.

    Args:
        unet: a ``UNet2DConditionModel``.
        conditioning: ``[[tensor, {"pooled_output": [1 or frames, P], "width", "height", "crop_w", "crop_h",
            "target_width", "target_height"}]]``, sizes in pixels.
        frames: of the clip.
        size: height and width of the latent.
        name: of the input, for the message.

    Returns:
        ``text_embeds`` [frames, P] and ``time_ids`` [frames, 6]; None for a U-Net that reads neither.

    Raises:
        TypeError: see ``family_of``.
        ValueError: no pooled text, one of another width or for another number of frames, or a U-Net that reads another
            number of sizes.
    """
    family = family_of(unet)
    if not family.sizes:
        return None
    extra, width = conditioning[0][1], unet.config.addition_time_embed_dim * family.sizes
    expected, pooled = unet.config.projection_class_embeddings_input_dim - width, extra.get("pooled_output")
    if pooled is None or pooled.shape[-1] != expected:
        given = "none" if pooled is None else f"{pooled.shape[-1]} numbers"
        raise ValueError(f"{name}: {family.name} reads a pooled text of {expected} numbers, but the condition holds "
                         f"{given}; encode the prompt with that model's own CLIP.")
    if len(pooled) not in (1, frames):
        raise ValueError(f"{name}: holds {len(pooled)} pooled texts, but the clip has {frames} frames; "
                         f"give one for all of them or {frames}.")
    default = {"height": size[0] * PIXELS_PER_CELL, "width": size[1] * PIXELS_PER_CELL, "crop_h": 0, "crop_w": 0}
    numbers: dict[str, float] = {}
    for key, other in SIZES.items():
        numbers[key] = float(extra.get(key, numbers[other] if other else default[key]))
    ids = torch.tensor([list(numbers.values())])
    return {"text_embeds": pooled.expand(frames, -1), "time_ids": ids.expand(frames, -1)}
