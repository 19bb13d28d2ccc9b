"""What LoRA-Edit edits: slowed held-out clips with their true answers, and clips of things with two faces."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from ...methods.lora_edit.masks import boxes
from ...toyworld import apply_edit, edits_of, heldout_edits, render
from ...toyworld.world.clips import SLOWER
from ...toyworld.world.edits import LOCAL, is_clear
from ...toyworld.world.grammar import TEXTURES
from ...toyworld.world.scene import slowed, with_main
from ..common.cases import Case

if TYPE_CHECKING:
    from torch import Tensor

    from ...toyworld import Clip, Edit, Scene
    from ..common.cases import World

PLAIN, TURNING = "plain", "turning"
#: A thing with two faces shows the other one from this frame on, where a latent frame begins.
TURN = 5


@dataclass(frozen=True)
class VideoCase:
    """One edit of the first frame.

    Args:
        case: clip, edit and answer.
        boxes: [F, H, W], LoRA-Edit's, of the original object: what a user has.
        wanted: what the judge should see, by frame.
        reference: number of the later frame that is edited as well.
    """

    case: Case
    boxes: Tensor
    wanted: list[str]
    reference: int


def numbers_of(count: int) -> dict[str, tuple[int, ...]]:
    """Numbers of the held-out edits: the first ``count`` that change the object alone, and half as many changes of
    colour after them, at least one, whose object then has two faces."""
    edits = [edit for _, edit in heldout_edits(8 * count + 10)]
    plain = tuple(n for n, edit in enumerate(edits) if edit.kind in LOCAL)[:count]
    later = [n for n, edit in enumerate(edits) if edit.kind == "colour" and n > plain[-1]]
    return {PLAIN: plain, TURNING: tuple(later[: max(count // 2, 1)])}


def cases(world: World, part: str, numbers: Collection[int], frames: int, size: int) -> Iterator[VideoCase]:
    """The edits of those numbers, ascending, at the speed that the video model knows."""
    found = heldout_edits(max(numbers) + 1, frames, size)
    for number in sorted(numbers):
        scene, edit = found[number]
        scene = slowed(scene, SLOWER)
        source, truth = render(scene), render(apply_edit(scene, edit))
        wanted, turn = [edit.target] * frames, min(TURN, frames - 1)
        if part == TURNING:
            back, answer = other_side(scene, edit)
            source, truth = joined(source, render(back), turn), joined(truth, render(answer), turn)
            wanted = wanted[:turn] + [answer.main.colour] * (frames - turn)
        name = f"{number:02d} {source.caption}: {edit.instruction}" + (", and its other side" * (part == TURNING))
        case = Case(name, edit, source, truth, torch.empty(0), world.conditioning)
        last = (turn + frames) // 2 if part == TURNING else frames - 1
        yield VideoCase(case, boxes(source.masks[0]), wanted, last)


def other_side(scene: Scene, edit: Edit) -> tuple[Scene, Scene]:
    """The scene whose object shows its other face, of another texture, and that after the edit: of that texture and a
    third colour, which no first frame tells."""
    texture = next(texture for texture in TEXTURES if texture != scene.main.texture)
    after = apply_edit(scene, edit)
    taken = {scene.main.colour, edit.target}
    colours = [other.target for other in edits_of(after) if other.kind == "colour" and other.target not in taken]
    answers = (with_main(after, texture=texture, colour=colour) for colour in colours)
    return with_main(scene, texture=texture), next(answer for answer in answers if is_clear(answer))


def joined(first: Clip, then: Clip, turn: int) -> Clip:
    """A clip that goes over into another one of the same motion at frame ``turn``."""
    return replace(first, frames=torch.cat([first.frames[:turn], then.frames[turn:]]))
