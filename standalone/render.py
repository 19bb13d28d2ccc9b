"""Clips of the toy world as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..toyworld import apply_edit, render
from ..toyworld.world.edits import editable_scene
from ..toyworld.world.scene import slowed
from ..video.sheet import contact_sheet
from ..video.write import write_clip

if TYPE_CHECKING:
    from ..toyworld import Clip

FPS = 8
#: Frames on the sheet; of a longer clip every second, third ...
MOST = 24


def clip_and_answer(clip_settings: dict[str, Any], prompt: str | None = None) -> tuple[Clip, Clip, Any]:
    """The clip of SteadyEditToyClip's settings, the answer to an edit of it, and that edit.

    Args:
        clip_settings: seed, frames, size, edit and, if not "demo" and 1, split and slower.
        prompt: the edit prompt that the node gave; the node's own choice if None.

    Raises:
        ValueError: the clip has no such edit.
    """
    kind, size = clip_settings["edit"], clip_settings["size"]
    scene, edits = editable_scene(clip_settings["seed"], clip_settings.get("split", "demo"), clip_settings["frames"],
                                  size, kind)
    scene = slowed(scene, clip_settings.get("slower", 1))
    # Without a prompt the same edit as the node's, which picks by the seed.
    first = clip_settings["seed"] % len(edits)
    for edit in edits[first:] + edits[:first]:
        answer = apply_edit(scene, edit)
        if prompt in (None, answer.caption):
            return render(scene), render(answer), edit
    raise ValueError(f"edit: clip {clip_settings['seed']} has no {kind} to edit; choose another edit or seed.")


def render_files(seed: int, kind: str, frames: int, size: int, output: Path, slower: int = 1) -> list[Path]:
    """Write a clip, the true answer to an edit of it, and both on a sheet.

    Raises:
        ValueError: the clip has no such edit, or ``slower`` is below 1.
    """
    if slower < 1:
        raise ValueError(f"--slower {slower}: expected 1 or more.")
    settings = {"seed": seed, "edit": kind, "frames": frames, "size": size, "slower": slower}
    clip, answer, edit = clip_and_answer(settings)
    paths = [output / f"toy_{seed}_{kind}_{part}" for part in ("source.mp4", "truth.mp4", "sheet.png")]
    write_clip(paths[0], clip.frames, FPS)
    write_clip(paths[1], answer.frames, FPS)
    stride = -(-frames // MOST)
    shown = [("source", "", clip.frames[::stride]), ("truth", "", answer.frames[::stride])]
    contact_sheet(paths[2], edit.instruction, shown)
    return paths
