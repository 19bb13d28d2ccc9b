"""EI2 against its rivals on held-out toy edits: ``python -m steadyedit bench ei2``.

Every method starts from the same weights, is tuned by the same recipe for the same number of
steps on the same clip with the same seed, inverts with the empty prompt, and samples with the
same guidance. One method after the other on a clip, so that a slow moment of the machine
falls on all. Finished rows lie beside the JSON, in NAME.rows: the same command goes on where
it was stopped, and several processes (``--workers``, torchrun) share the clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ...methods.tune_recipe import PUBLISHED
from ..common.asked import chosen_of, count_of, rows_folder, scale_of
from ..common.cases import World
from ..common.claims import claim_line, claims
from ..common.edited import scaled
from ..common.journal import Journal
from ..common.pictures import clip_strips
from ..common.report import meta, rows, table, write_json
from ..common.scores import KEYS, score
from ..common.shards import sharded
from .methods import FIRST, METHODS, Settings, edit

if TYPE_CHECKING:
    from torch import Tensor


FRAMES, SIZE, SEED = 8, 128, 0

#: What the table does not say by itself; part of the JSON.
NOTES = (
    "ei2 is FFAM with ratio 2 and STAM (instance centering and spectral normalisation): the row ffam-2.",
    "no-norm to centering-spectral: sparse-causal attention and a variant of STAM. equation-9: EI2 without its second "
    "centring. tune-a-video and tune-a-video-per-frame are inspired by that method, at the table's steps and guidance: "
    "the first with norms over all frames, as in its authors' code, the second with norms per frame.",
    "All tuned methods share recipe, steps, seed, inversion with the empty prompt, and guidance.",
    "video-p2p and vid2vid-zero are inspired by those methods: null-text inversion and Prompt-to-Prompt as published, "
    "on this pack's attentions and the table's steps and guidance (benchmarks/ei2/prompt_rivals.py says what differs).",
    "Guidance and, without --steps, steps and learning rate were chosen on 5 clips of the validation split, seen by no "
    "row here.",
    "Seconds are wall-clock; methods follow each other clip by clip, so that other load falls on all of them.",
)


def main(
    clips: int | None = None,
    methods: Sequence[str] | None = None,
    json_path: Path | None = None,
    steps: float | None = None,
    *,
    sheet_path: Path | None = None,
    settings: Settings | None = None,
    world: World | None = None,
) -> dict[str, Any]:
    """Measure, print the table, and write the numbers and a contact sheet.

    Args:
        clips: number of held-out edits, 4 if None.
        methods: slugs of ``methods.METHODS``; intervals are against the first one.
        json_path: where the numbers go; the sheet goes beside it as a .png, finished rows
            into a folder .rows.
        steps: scale of the published 500 steps at 3e-5, see ``common.edited.scaled``; the table's own if None.
        sheet_path: where the sheet goes instead.
        settings, world: other than the table's and the committed models.

    Returns:
        what the JSON file holds; where several processes share the work, one of them
        writes it and the others return nothing.

    Raises:
        ValueError: an unknown method, no clip, a scale that is not positive, several processes without a file, or rows
            that were measured with other settings.
    """
    count, chosen = count_of(clips, 4), chosen_of(methods or FIRST, METHODS)
    settings = settings or Settings.of_the_table()
    if steps is not None:
        settings = replace(settings, recipe=scaled(PUBLISHED, scale_of(steps)))
    used = {"frames": FRAMES, "size": SIZE, "seed": SEED, **asdict(settings)}
    with rows_folder(json_path) as rows_path:
        journal = Journal(rows_path, used)
        with sharded() as (rank, processes):
            if json_path is None and processes > 1:
                raise ValueError("json: several processes share their rows through files; say where with --json FILE.")
            own = range(rank, count, processes)
            todo = {clip: [m for m in chosen if journal.find(clip, m) is None] for clip in own}
            world = world or World.load()
            _measure({clip: left for clip, left in todo.items() if left}, count, world, settings, journal)
        if rank:
            return {}
        measured, how = journal.report(range(count), chosen)
        strips = _strips(world, count, chosen, journal, measured)
    summary = rows(measured, KEYS)
    report: dict[str, Any] = {
        "meta": meta(SEED, count, settings=used, notes=NOTES, processes=processes) | how,
        "rows": summary,
        "claims": claims(measured),
        "clips": measured,
    }
    print(f"\nAll methods tuned for {settings.recipe.steps} steps; {count} clips; * : paired 95 % interval excludes 0.")
    print(table(summary, KEYS))
    for claim in report["claims"]:
        print(claim_line(claim, KEYS[claim["key"]][1]))
    if json_path is not None:
        write_json(json_path, report)
        print(f"numbers: {json_path}")
        sheet_path = sheet_path or Path(json_path).with_suffix(".png")
    if sheet_path is not None:
        from ...video.sheet import contact_sheet

        contact_sheet(Path(sheet_path), "source, edits, true answer", strips, side=112)
        print(f"pictures: {sheet_path}")
    return report


def _measure(todo: dict[int, list[str]], count: int, world: World, settings: Settings, journal: Journal) -> None:
    """Run and keep what is not finished: methods by the number of the clip."""
    total = sum(map(len, todo.values()))
    with tqdm(total=total, desc="bench ei2", unit="edit", position=0, disable=None) as bar:
        for clip, case in zip(todo, world.cases(count, FRAMES, SIZE, todo), strict=True):
            for method in todo[clip]:
                bar.set_postfix_str(f"{method}: {case.edit.instruction}")
                edited = edit(world, case, method, settings, SEED + clip)
                row = {"method": method, "clip": case.name, **score(world, case, edited, settings)}
                journal.keep(clip, method, row, edited.frames)
                bar.update()
                if bar.disable:
                    print(f"{case.name}: {method}: {row['psnr_truth']:.1f} dB to the truth", flush=True)


#: Rows on the contact sheet; more would be scrolled past.
MOST_STRIPS = 60


def _strips(
    world: World, count: int, methods: Sequence[str], journal: Journal, measured: list[dict[str, Any]]
) -> list[tuple[str, str, Tensor]]:
    """Rows of the contact sheet: of each clip the source, every method and the truth."""
    strips: list[tuple[str, str, Tensor]] = []
    shown = range(min(count, -(-MOST_STRIPS // (len(methods) + 2))))
    for clip, case in zip(shown, world.cases(count, FRAMES, SIZE, shown), strict=True):
        own = zip(methods, measured[clip * len(methods) :], strict=False)
        strips += clip_strips(case, ((method, row, journal.frames(clip, method, FRAMES)) for method, row in own))
    return strips
