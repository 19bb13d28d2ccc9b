"""Methods on a diffusers ``UNet2DConditionModel``: the library use, and what standalone runs on.

Each name loads its module when it is asked for: a list of files needs none of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backend import DiffusersBackend
    from .denoiser import Denoiser
    from .encoders import Autoencoder, TextEncoder
    from .model import DiffusersModel
    from .toy import load_toy_models

__all__ = ["Autoencoder", "Denoiser", "DiffusersBackend", "DiffusersModel", "TextEncoder", "load_toy_models"]
_PLACES = {"Autoencoder": "encoders", "Denoiser": "denoiser", "DiffusersBackend": "backend",
           "DiffusersModel": "model", "TextEncoder": "encoders", "load_toy_models": "toy"}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_PLACES[name]}", __name__), name)
