"""The methods on ComfyUI's own MODEL. Imported only where ComfyUI runs."""

from .backend import ComfyBackend

__all__ = ["ComfyBackend"]
