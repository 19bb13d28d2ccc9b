"""Nodes of a rehearsal, which only the ComfyUI that it starts has: a stand-in for huge text encoders, and probes.

The host imports this folder by itself, so that nothing here may import the rest of the pack.
"""

from __future__ import annotations

from typing import Any

from .keep import keep
from .packing import independent_condition
from .text import StandInText


class Anything(str):
    """A type that fits every other."""

    def __ne__(self, other: object) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = str.__hash__


class RehearsalText:
    """In the place of CLIPLoader and DualCLIPLoader: vectors of the true width, made from the words alone."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("CLIP",), "load", "SteadyEdit/rehearsal"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"kind": ("STRING", {})}}

    def load(self, kind: str) -> tuple[StandInText]:
        return (StandInText(kind),)


class RehearsalKeep:
    """Writes the tensors of any value into a safetensors file."""

    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "keep", "SteadyEdit/rehearsal", True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"value": (Anything("*"), {}), "path": ("STRING", {})}}

    def keep(self, value: Any, path: str) -> tuple:
        keep(value, path)
        return ()


class RehearsalPacking:
    """LoRA-Edit's condition, packed by the check's own formula with the host's VAE."""

    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "pack", "SteadyEdit/rehearsal", True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        words: dict[str, Any] = {name: ("STRING", {}) for name in ("keep", "family", "pooling", "path")}
        return {"required": {"vae": ("VAE", {}), "video": ("IMAGE", {}), **words},
                "optional": {"mask": ("MASK", {}), "edited_first_frame": ("IMAGE", {}), "gray": ("STRING", {})}}

    def pack(self, vae: Any, video: Any, keep: str, family: str, pooling: str, path: str, mask: Any = None,
             edited_first_frame: Any = None, gray: str = "mid-gray") -> tuple:
        from .keep import keep as write

        write(independent_condition(vae.encode, video, mask, edited_first_frame, keep, family, pooling, gray), path)
        return ()


NODE_CLASS_MAPPINGS = {f"Steady{node.__name__.replace('Rehearsal', 'EditRehearsal')}": node
                       for node in (RehearsalText, RehearsalKeep, RehearsalPacking)}
