"""The MODEL value of this backend: a shared U-Net and what is attached to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...diffusion.schedule import DiscreteSchedule
from .families import family_of

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
        latent_scale: LATENT samples times this is what the U-Net sees; None: its family's (``families``).
        prediction: what the U-Net predicts, as diffusers' schedulers call it; only "epsilon" is taken.

    Raises:
        TypeError: a U-Net of no known family, or one that predicts something else than noise.
    """

    unet: UNet2DConditionModel
    attachments: tuple[Attachment, ...] = ()
    query_deltas: Mapping[str, Tensor] = field(default_factory=dict)
    schedule: DiscreteSchedule = field(default_factory=DiscreteSchedule.scaled_linear)
    latent_scale: float | None = None
    prediction: str = "epsilon"

    def __post_init__(self) -> None:
        if self.prediction != "epsilon":
            raise TypeError(f"model: predicts {self.prediction} and not noise (epsilon); load an epsilon-predicting "
                            "checkpoint such as Stable Diffusion 1.5 or SDXL base.")
        if self.latent_scale is None:
            object.__setattr__(self, "latent_scale", family_of(self.unet).latent_scale)

    @classmethod
    def of_pipeline(cls, pipeline: Any) -> DiffusersModel:
        """The U-Net of a diffusers pipeline (``StableDiffusionPipeline``, ``StableDiffusionXLPipeline``, ...), with the
        noise schedule of its scheduler and the latent scale of its VAE.

        Raises:
            TypeError: see the class.
        """
        scheduler = pipeline.scheduler
        return cls(pipeline.unet, schedule=DiscreteSchedule(scheduler.alphas_cumprod.double()),
                   latent_scale=pipeline.vae.config.scaling_factor, prediction=scheduler.config.prediction_type)
