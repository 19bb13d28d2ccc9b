"""The toy world's trained models as MODEL, CLIP and VAE of this backend."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ...toyworld import models
from .control import ControlNet
from .encoders import Autoencoder, ImageEncoder, TextEncoder
from .model import DiffusersModel


def load_toy_models() -> tuple[DiffusersModel, TextEncoder, Autoencoder]:
    """MODEL, CLIP and VAE, float32, on the GPU where there is one.

    Raises:
        ValueError: a weights file is not the one that its sidecar describes.
        FileNotFoundError: a weights file is missing.
    """
    return _values(models.load_unet, models.load_text_encoder)


def load_toy_editor() -> tuple[DiffusersModel, TextEncoder, Autoencoder]:
    """MODEL and CLIP of the instruction editor, and the same VAE; raises as ``load_toy_models``."""
    return _values(models.load_editor, models.load_editor_text_encoder)


def load_toy_controlnet() -> ControlNet:
    """CONTROL_NET of edges; raises as ``load_toy_models``."""
    net = models.load_controlnet().to("cuda" if torch.cuda.is_available() else "cpu")
    return ControlNet(net.to(memory_format=torch.channels_last))


def load_toy_clip() -> tuple[TextEncoder, ImageEncoder]:
    """CLIP and CLIP_VISION of the scorer; raises as ``load_toy_models``."""
    clip = models.load_clip().to("cuda" if torch.cuda.is_available() else "cpu")
    return TextEncoder(clip.text_model, models.tokenize, clip.text_projection), ImageEncoder(clip)


def _values(*loaders: Callable[[], nn.Module]) -> tuple[DiffusersModel, TextEncoder, Autoencoder]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    unet, encoder, vae = (load().to(device) for load in (*loaders, models.load_vae))
    # Convolutions like it better, and tokens become a view of a feature map: a tenth of the time of a step.
    unet = unet.to(memory_format=torch.channels_last)
    return DiffusersModel(unet), TextEncoder(encoder, models.tokenize), Autoencoder(vae)
