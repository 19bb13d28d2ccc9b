"""One protocol over the hosts of a U-Net. Heavy imports wait until a backend is asked for."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from .model_manager import ModelManager
from .protocol import Backend

if TYPE_CHECKING:
    from .comfy_native import ComfyBackend
    from .diffusers import DiffusersBackend
    from .diffusers.video import DiffusersVideoBackend
    from .protocol import VideoBackend

    # The type checker holds every host to the whole of its protocol.
    _U_NETS: tuple[type[Backend], ...] = (ComfyBackend, DiffusersBackend)
    _VIDEO: tuple[type[VideoBackend], ...] = (ComfyBackend, DiffusersVideoBackend)


def of(model: Any) -> Any:
    """The backend that a MODEL value belongs to: a ``Backend``, or a ``VideoBackend`` for a video transformer.

    Raises:
        TypeError: the value is no MODEL that a backend knows.
    """
    # By the ancestry: other packs subclass the host's ModelPatcher.
    if any(kind.__module__ == "comfy.model_patcher" for kind in type(model).__mro__):
        from .comfy_native import ComfyBackend

        return ComfyBackend()
    from .diffusers import DiffusersBackend, DiffusersModel

    if isinstance(model, DiffusersModel):
        return DiffusersBackend()
    from .diffusers.video import DiffusersVideoBackend, DiffusersVideoModel

    if isinstance(model, DiffusersVideoModel):
        return DiffusersVideoBackend()
    from .diffusers.flow_editor import FlowEditorBackend, FlowEditorModel

    if isinstance(model, FlowEditorModel):
        return FlowEditorBackend()
    raise TypeError(f"model: expected a MODEL from a model loader, but got {type(model).__name__}.")


def current() -> Backend:
    """The backend of the running program, for what needs no MODEL: the toy world's loader, folders, progress."""
    # A running host has this module loaded; asking for it would start one.
    if "comfy.model_management" in sys.modules:
        from .comfy_native import ComfyBackend

        return ComfyBackend()
    from .diffusers import DiffusersBackend

    return DiffusersBackend()


def manager() -> ModelManager:
    """The host's care for networks beside the U-Net: their memory, precision and folders."""
    if "comfy.model_management" in sys.modules:
        from .comfy_native.model_manager import ComfyManager

        return ComfyManager()
    from .diffusers.model_manager import PlainManager

    return PlainManager()
