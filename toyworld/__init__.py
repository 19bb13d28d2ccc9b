"""The toy world: clips with known answers, and small models trained on them.

    scene = sample_scene(seed, "test", frames=16)      # everything about a clip, from one integer
    clip = render(scene)                               # frames, masks, flow, caption
    truth = render(apply_edit(scene, edits_of(scene)[0]))

Models: `toyworld.models.load_vae()` and its neighbours; training and measuring: `python -m steadyedit toyworld`.
Each name loads its module when it is asked for: where the weights lie is known without any.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .world.edits import Edit, apply_edit, edits_of, heldout_edits
    from .world.rendering import Clip, render
    from .world.scene import Scene, sample_scene

__all__ = ["Clip", "Edit", "Scene", "apply_edit", "edits_of", "heldout_edits", "render", "sample_scene"]
_PLACES = {"Clip": "world.rendering", "Edit": "world.edits", "Scene": "world.scene", "apply_edit": "world.edits",
           "edits_of": "world.edits", "heldout_edits": "world.edits", "render": "world.rendering",
           "sample_scene": "world.scene"}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_PLACES[name]}", __name__), name)
