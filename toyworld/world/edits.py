"""Edits with known answers: an edit maps a scene to the scene that the edit asks for, motion untouched.

Rendered, that scene is the true answer; its caption is the prompt of a caption-driven editor, `Edit.instruction` that
of an instruction-driven one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .grammar import (
    ALL_BACKGROUNDS,
    BACKGROUNDS,
    COLOURS,
    INVISIBLE,
    PHOTOS,
    SHAPES,
    STYLES,
    TEXTURES,
    article,
    background_noun,
)
from .scene import Scene, sample_scene, with_main

KINDS = ("colour", "shape", "texture", "background", "style")
#: what changes one thing and leaves the rest of the picture
LOCAL = ("colour", "shape", "texture")


@dataclass(frozen=True)
class Edit:
    """One change: `kind` of KINDS, `target` the new value, `subject` the main object's shape before the edit."""

    kind: str
    target: str
    subject: str

    @property
    def instruction(self) -> str:
        """The edit as an order: "make the ball blue", "at sunset"."""
        if self.kind == "shape":
            return f"turn the {self.subject} into {article(self.target)} {self.target}"
        if self.kind == "background":
            return f"replace the background with {background_noun(self.target)}"
        if self.kind == "style":
            return STYLES[self.target]
        return f"make the {self.subject} {self.target}"


def is_clear(scene: Scene) -> bool:
    """No object vanishes in the background, and no other object could be taken for the main one."""
    others = scene.things[1:]
    return (all((t.colour, scene.background) not in INVISIBLE for t in scene.things)
            and all(t.shape != scene.main.shape and t.colour != scene.main.colour for t in others))


def edits_of(scene: Scene, photos: bool = False) -> list[Edit]:
    """Every edit that changes `scene` and leaves it clear; photo backgrounds as targets only on request.

    A style edit starts from an unstyled scene; in black and white, colour edits have no visible answer.
    """
    subject, main = scene.main.shape, scene.main
    backgrounds = [*BACKGROUNDS, *(PHOTOS if photos else ())]
    found = [
        *(Edit("colour", c, subject) for c in COLOURS if c != main.colour and scene.style != "bw"),
        *(Edit("shape", s, subject) for s in SHAPES if s != main.shape),
        *(Edit("texture", t, subject) for t in TEXTURES if t != main.texture),
        *(Edit("background", b, subject) for b in backgrounds if b != scene.background),
        *(Edit("style", s, subject) for s in STYLES if s != "none" and scene.style == "none"),
    ]
    return [edit for edit in found if is_clear(apply_edit(scene, edit))]


def apply_edit(scene: Scene, edit: Edit) -> Scene:
    """The scene after the edit."""
    if edit.kind in ("colour", "shape", "texture"):
        return with_main(scene, **{edit.kind: edit.target})
    if edit.kind == "background":
        if edit.target not in ALL_BACKGROUNDS:
            raise ValueError(f"The toy world has no background {edit.target!r}: {', '.join(ALL_BACKGROUNDS)}.")
        return replace(scene, background=edit.target)
    if edit.kind == "style":
        return replace(scene, style=edit.target)
    raise ValueError(f"The toy world has no edits of kind {edit.kind!r}: choose one of {', '.join(KINDS)}.")


def editable_scene(seed: int, split: str, frames: int, size: int | tuple[int, int], kind: str) -> tuple[Scene,
                                                                                                        list[Edit]]:
    """A scene and its edits of a kind, at least one.

    Black and white leaves no colour to edit, and a styled scene no style: such a scene is drawn without its style,
    and else the same.
    """
    for style in ({}, {"style": "none"}):
        scene = sample_scene(seed, split, frames, size, **style)
        if edits := [edit for edit in edits_of(scene) if edit.kind == kind]:
            return scene, edits
    raise ValueError(f"edit: clip {seed} of {split} has no {kind} to edit; choose another edit or seed.")


def heldout_edits(n: int = 48, frames: int = 8, size: int | tuple[int, int] = 128,
                  split: str = "test") -> list[tuple[Scene, Edit]]:  # fmt: skip
    """The fixed benchmark: `n` held-out scenes, each with one edit, kinds in turn; from the test split.

    Settings of a benchmark are chosen on those of the validation split.

    The first 24 have one object and no photo background; later ones are scenes as they come, always unstyled.
    """
    chosen: list[tuple[Scene, Edit]] = []
    seed = 0
    while len(chosen) < n:
        index = len(chosen)
        overrides = {"objects": 1, "photo": False} if index < 24 else {}
        scene = sample_scene(100_000 + seed, split, frames, size, style="none", **overrides)
        seed += 1
        kind = KINDS[index % len(KINDS)]
        options = [e for e in edits_of(scene) if e.kind == kind]
        if options and is_clear(scene):
            chosen.append((scene, options[(index // len(KINDS) * 3 + index) % len(options)]))
    return chosen
