"""A harder world for the adaptation: held-out edits in wordings that the editor was not trained on, as far as it fails.

What is hard is decided by the untuned editor's result alone, under another noise than that of the rows, so that the
rows of the untuned editor are not those that it was chosen by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ...methods.via.pipeline import ViaRecipe, sample_edit
from ...vision import metrics
from ..common.scores import judged_names
from ..via.texts import wordings

if TYPE_CHECKING:
    from ..common.cases import Case, World
    from ..common.journal import Journal

#: The rows.
METHODS = ("unadapted", "adapted", "true-pair")
#: Hard is what the untuned editor gets right in at most this share of the frames.
MOST_RIGHT = 0.5
#: Held-out edits that are looked at, of one object each; and what the noise's seed is moved by.
LOOKED_AT, NOISE = 24, 1000


def hard_cases(
    world: World, count: int, length: int, size: int, seed: int, journal: Journal, via: ViaRecipe,
    templates: dict[str, tuple[str, ...]], thinned: Callable[[Case], Case],
) -> Iterator[tuple[int, Case, str]]:  # fmt: skip
    """The first ``count`` hard edits, each with its first hard wording: number, case, instruction.

    Args:
        journal: of what the untuned editor gave.
        templates: of the wordings; the editor's own, the first of each kind, is left out.
        thinned: a case's frames that are edited.
    """
    for number, case in enumerate(world.cases(LOOKED_AT, length, size)):
        if not count:
            return
        for nth, instruction in list(enumerate(wordings(case.edit, templates)))[1:]:
            if _right(world, number, nth, thinned(case), instruction, seed, journal, via) <= MOST_RIGHT:
                yield number, case, instruction
                count -= 1
                break


def _right(world: World, number: int, nth: int, few: Case, instruction: str, seed: int, journal: Journal,
           via: ViaRecipe) -> float:  # fmt: skip
    """Share of the frames that the untuned editor gets right, each by itself."""
    slug = f"untuned-{nth}"
    if (kept := journal.find(number, slug)) is None:
        alone = replace(via, adaptation=None, swap=None, blend=None)
        samples = sample_edit(world.backend, world.model, few.samples, world.conditioning(instruction), few.empty,
                              alone, seed=seed + NOISE + number)  # fmt: skip
        frames = world.vae.decode(samples)
        right = metrics.edit_accuracy(judged_names(world, few, frames), few.edit.target)
        row = {"method": slug, "clip": few.name, "instruction": instruction, "right": right}
        journal.keep(number, slug, row, frames)
        print(f"{few.name}: {instruction}: right in {right:.0%} of the frames", flush=True)
        return right
    return kept["row"]["right"]
