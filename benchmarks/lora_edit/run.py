"""LoRA-Edit against its rivals and its own ablations: ``python -m steadyedit bench lora_edit``.

Every method starts from the same weights of the toy video model and, on a clip, from the same
noise and the same edited first frame, the truth's. Masks are boxes around the original object.
What must show is in the edited region and at its border: outside of the boxes a masked method is
handed the clip. Finished rows lie beside the JSON, in NAME.rows: the same command goes on where
it was stopped, and several processes (``--workers``, torchrun) share the clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ...toyworld.models import config_of
from ...toyworld.world.clips import FRAMES
from ..common.asked import chosen_of, count_of, rows_folder
from ..common.cases import World
from ..common.journal import Journal
from ..common.report import write_json
from ..common.shards import sharded
from .cases import PLAIN, TURNING, cases, numbers_of
from .methods import METHODS, ON_TURNING, Settings
from .methods import edit as run
from .report import draw_curves, draw_sheet, measured, report_of, show

#: Side of a frame; edits of the table, beside half as many of things with two faces.
SIZE, SEED, CLIPS = 128, 0, 6


def main(
    clips: int | None = None,
    methods: Sequence[str] | None = None,
    json_path: Path | None = None,
    *,
    settings: Settings | None = None,
    world: World | None = None,
) -> dict[str, Any]:
    """Measure, print the tables, and write the numbers, a contact sheet and a plot.

    Args:
        clips: number of held-out edits, ``CLIPS`` if None; half as many more have two faces.
        methods: slugs of ``methods.METHODS``, all if None; intervals are against the first.
        json_path: where the numbers go; the sheet goes beside it as NAME.jpg, the plot of the edit
            over the frames as NAME_kept.png, finished rows into a folder NAME.rows.
        settings, world: other than the table's and the committed models.

    Returns:
        what the JSON file holds; where several processes share the work, one of them
        writes it and the others return nothing.

    Raises:
        ValueError: an unknown method, no clip, several processes without a file, or rows
            that were measured with other settings.
    """
    count, chosen = count_of(clips, CLIPS), chosen_of(methods or METHODS, METHODS)
    settings, numbers = settings or Settings(), numbers_of(count)
    wanted = {PLAIN: chosen, TURNING: [method for method in chosen if method in ON_TURNING]}
    # The weights too: rows of others would go on beside these.
    weights = None if world else {name: config_of(name)["sha256"] for name in ("wan", "wan_vae")}
    used = {"frames": FRAMES, "size": SIZE, "seed": SEED, "weights": weights, **asdict(settings)}
    with rows_folder(json_path) as rows_path:
        journals = {part: Journal(rows_path / part, used) for part in wanted}
        with sharded() as (rank, processes):
            if json_path is None and processes > 1:
                raise ValueError("json: several processes share their rows through files; say where with --json FILE.")
            world = world or World.load(video=True)
            for part, journal in journals.items():
                _measure(part, numbers[part][rank::processes], wanted[part], journal, world, settings)
        if rank:
            return {}
        report = report_of(journals, numbers, wanted, used, processes)
        show(report)
        if json_path is not None:
            path = Path(json_path)
            write_json(path, report)
            draw_sheet(path.with_suffix(".jpg"), journals, numbers, wanted, world, FRAMES, SIZE)
            plot = path.with_name(f"{path.stem}_kept.png")
            draw_curves(report, plot)
            print(f"numbers: {path}\npictures: {path.with_suffix('.jpg')}\nplot: {plot}")
    return report


def _measure(
    part: str, numbers: Sequence[int], methods: Sequence[str], journal: Journal, world: World, settings: Settings
) -> None:
    """Run and keep what is not finished."""
    todo = {number: [m for m in methods if journal.find(number, m) is None] for number in numbers}
    left = [number for number, missing in todo.items() if missing]
    if not left:
        return
    for number, found in zip(left, cases(world, part, left, FRAMES, SIZE), strict=True):
        for method in tqdm(todo[number], desc=f"bench lora_edit, {part} clip {number}", disable=None):
            kept = journal.folder / "trained"
            edited, seconds = run(world, found, method, settings, SEED + number, kept)
            named = {"method": method, "clip": found.case.name, "number": number, "part": part}
            row = {**named, "kind": found.case.edit.kind, **measured(world, found, edited)}
            journal.keep(number, method, {**row, "seconds": seconds}, edited.frames)
            print(f"{found.case.name}: {method}: edit kept {row['edit_accuracy']:.0%}, inside "
                  f"{row['psnr_inside']:.1f} dB, {seconds:.0f} s", flush=True)  # fmt: skip
