"""One protocol over the hosts of a U-Net. Heavy imports wait until a backend is asked for."""

from __future__ import annotations

from typing import Any

from .protocol import Backend


def of(model: Any) -> Backend:
    """The backend that a MODEL value belongs to.

    Raises:
        TypeError: the value is no MODEL that a backend knows.
    """
    if type(model).__module__.startswith("comfy"):
        from .comfy_native import ComfyBackend

        return ComfyBackend()
    from .diffusers import DiffusersBackend, DiffusersModel

    if isinstance(model, DiffusersModel):
        return DiffusersBackend()
    raise TypeError(f"model: expected a MODEL from a model loader, but got {type(model).__name__}.")
