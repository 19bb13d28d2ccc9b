"""The toy world: clips with known answers, and small models trained on them.

    scene = sample_scene(seed, "test", frames=16)      # everything about a clip, from one integer
    clip = render(scene)                               # frames, masks, flow, caption
    truth = render(apply_edit(scene, edits_of(scene)[0]))

Models: `toyworld.models.load_vae()` and its neighbours; training and measuring: `python -m steadyedit toyworld`.
"""

from __future__ import annotations

from .world.edits import Edit, apply_edit, edits_of, heldout_edits
from .world.rendering import Clip, render
from .world.scene import Scene, sample_scene

__all__ = ["Clip", "Edit", "Scene", "apply_edit", "edits_of", "heldout_edits", "render", "sample_scene"]
