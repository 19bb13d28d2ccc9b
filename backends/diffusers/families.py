"""Families of U-Nets that this backend knows, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Family:
    """One family of Stable Diffusion's U-Nets.

    Args:
        name: for sentences.
        latent_scale: LATENT samples times this is what the U-Net sees.
        sizes: numbers of the size condition that it reads beside the pooled text; 0 where it reads neither.
    """

    name: str
    latent_scale: float
    sizes: int = 0


STABLE_DIFFUSION = Family("Stable Diffusion 1.x or 2.x", 0.18215)
#: Height and width of the original, top and left of its crop, height and width of the target.
SDXL = Family("SDXL base", 0.13025, 6)


def family_of(unet: Any) -> Family:
    """The family of a ``UNet2DConditionModel``, by what it reads beside noise, timestep and text.

    Raises:
        TypeError: it reads something that no family here gives it.
    """
    config = getattr(unet, "config", None)
    kind, classes = (getattr(config, key, None) for key in ("addition_embed_type", "class_embed_type"))
    if kind is None and classes is None:
        return STABLE_DIFFUSION
    if kind == "text_time":
        return SDXL
    raise TypeError(f"model: this U-Net reads {kind or classes!r} beside its text, which neither "
                    f"{STABLE_DIFFUSION.name} nor {SDXL.name} does; load one of those.")
