"""Latents as pictures in the host's own colours."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import latent_preview

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from PIL.Image import Image
    from torch import Tensor


def latent_picture(model: ModelPatcher) -> Callable[[Tensor], Image] | None:
    """Draws a latent by the previewer that the user chose (TAESD, where its file is there), else by the host's linear
    map for the model's latents; None where the host knows neither.

    A training has no other picture, so there is one also where sampling shows none.
    """
    known = model.model.latent_format
    previewer = latent_preview.get_previewer(model.load_device, known)
    if previewer is None and known.latent_rgb_factors is not None:
        previewer = latent_preview.Latent2RGBPreviewer(
            known.latent_rgb_factors, known.latent_rgb_factors_bias, known.latent_rgb_factors_reshape)
    if previewer is None:
        return None
    return lambda latent: previewer.decode_latent_to_preview_image("JPEG", latent)[1]
