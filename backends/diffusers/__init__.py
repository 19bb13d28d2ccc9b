"""Methods on a diffusers ``UNet2DConditionModel``: the library use, and what standalone runs on."""

from .backend import DiffusersBackend
from .denoiser import Denoiser
from .encoders import Autoencoder, TextEncoder
from .model import DiffusersModel
from .toy import load_toy_models

__all__ = ["Autoencoder", "Denoiser", "DiffusersBackend", "DiffusersModel", "TextEncoder", "load_toy_models"]
