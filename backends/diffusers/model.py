"""The MODEL value of this backend: a shared U-Net and what is attached to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...diffusion.schedule import DiscreteSchedule

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from torch import Tensor

    from ...methods.attachment import Attachment


@dataclass(frozen=True)
class DiffusersModel:
    """A ``UNet2DConditionModel`` with attachments. Clones share the U-Net, which is patched
    only for the time of one call.

    Args:
        unet: predicts epsilon from [branches * frames, channels, h, w] and text [.., 77, C].
        attachments: in the order in which they were attached.
        query_deltas: differences of projection weights by ``<site path>.<name>.weight``: of tuned
            queries (``attn1.to_q``), of a LoRA on any of ``methods.lora.PROJECTIONS``.
        schedule: the noise schedule that the U-Net was trained on.
        latent_scale: LATENT samples times this is what the U-Net sees.
    """

    unet: UNet2DConditionModel
    attachments: tuple[Attachment, ...] = ()
    query_deltas: Mapping[str, Tensor] = field(default_factory=dict)
    schedule: DiscreteSchedule = field(default_factory=DiscreteSchedule.scaled_linear)
    latent_scale: float = 0.18215
