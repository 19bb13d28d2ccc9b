"""The methods on ComfyUI's own MODEL. Imported only where ComfyUI runs.

The backend loads when it is asked for: what the host's start needs of this folder is its folders of models alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backend import ComfyBackend

__all__ = ["ComfyBackend"]


def __getattr__(name: str) -> Any:
    if name == "ComfyBackend":
        from .backend import ComfyBackend

        return ComfyBackend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
