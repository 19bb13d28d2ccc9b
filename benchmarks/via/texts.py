"""One instruction in several wordings, a frame each: where the swap of cross-attention has something to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...methods.via.per_frame import one_condition
from ...toyworld.world.grammar import STYLES, article, background_noun

if TYPE_CHECKING:
    from ...toyworld import Edit
    from ..common.cases import World

#: By the kind of edit, in the grammar's words; the editor was trained on the first of each alone.
WORDINGS: dict[str, tuple[str, ...]] = {
    "colour": ("{instruction}", "make it {target}", "change the {subject} to {target}", "the {target} {subject}"),
    "shape": ("{instruction}", "turn it into {phrase}", "replace the {subject} with {phrase}", "{phrase}"),
    "background": ("{instruction}", "change the background to {phrase}", "make the background {phrase}", "{phrase}"),
    "style": ("{instruction}", "make it {phrase}", "the same picture {phrase}", "make the scene {phrase}"),
}
WORDINGS["texture"] = WORDINGS["colour"]


def wordings(edit: Edit, templates: dict[str, tuple[str, ...]]) -> list[str]:
    """The edit's instruction in each wording of its kind."""
    if edit.kind == "style":
        phrase = STYLES[edit.target]
    else:
        phrase = background_noun(edit.target) if edit.kind == "background" else f"{article(edit.target)} {edit.target}"
    return [text.format(instruction=edit.instruction, target=edit.target, subject=edit.subject, phrase=phrase)
            for text in templates[edit.kind]]


def one_a_frame(world: World, edit: Edit, frames: int, templates: dict[str, tuple[str, ...]]) -> Any:
    """CONDITIONING with a row a frame, the wordings in turn."""
    encoded = [world.conditioning(text) for text in wordings(edit, templates)]
    return one_condition([encoded[frame % len(encoded)] for frame in range(frames)])
