"""VIA against its rivals and its own ablations: ``python -m steadyedit bench via``.

Every method starts from the same weights and, on a clip, from the same initial noise; those
that adapt share one root pair and one adaptation, those that blend one inversion. Local edits
(colour, shape, texture) are given the object's true mask, global ones (background, style) none.
Finished rows lie beside the JSON, in NAME.rows: the same command goes on where it was stopped,
and several processes (``--workers``, torchrun) share the clips. ``--sizes`` names the lengths
of clip at which cost and flicker are looked at as well. ``--editor flow`` measures on the toy world's
flow-matching editor, of FLUX Kontext's kind, instead of on its InstructPix2Pix.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ...toyworld import heldout_edits
from ...toyworld.models import config_of
from ...vision import metrics
from ..common.asked import chosen_of, count_of, rows_folder
from ..common.cases import World
from ..common.journal import Journal
from ..common.report import write_json
from ..common.scores import score
from ..common.shards import sharded
from .flow import FLOW
from .methods import INSTRUCT, Kind, is_local, object_mask
from .report import FRAMES, LENGTHS, SERIES, Job, draw_lengths, draw_sheet, report_of, show

if TYPE_CHECKING:
    from ..common.cases import Case

#: Kinds of editor by their names on the command line.
KINDS = {"instruct": INSTRUCT, "flow": FLOW}
#: Side of a frame, and of everything that is drawn.
SIZE, SEED = 128, 0
#: Edits of the table.
CLIPS = 4
#: Frames of a result that are kept as a picture.
KEPT = 24


def main(
    clips: int | None = None,
    methods: Sequence[str] | None = None,
    json_path: Path | None = None,
    sizes: Sequence[str] | None = None,
    *,
    editor: str = "instruct",
    settings: Any = None,
    world: World | None = None,
) -> dict[str, Any]:
    """Measure, print the tables, and write the numbers, a contact sheet and a plot.

    Args:
        clips: number of held-out edits, local and global ones in turn; ``CLIPS`` if None.
        methods: slugs of the editor's methods, all if None; intervals are against the first.
        json_path: where the numbers go; the sheet goes beside it as NAME.jpg, the plot as
            NAME_length.png, finished rows into a folder NAME.rows.
        sizes: lengths of clip of the series, beside the table's own; ``LENGTHS`` if None.
        editor: one of ``KINDS``.
        settings, world: other than the table's and the committed models.

    Returns:
        what the JSON file holds; where several processes share the work, one of them
        writes it and the others return nothing.

    Raises:
        ValueError: an unknown editor or method, no clip, a length that is none, several processes
            without a file, or rows that were measured with other settings.
    """
    if editor not in KINDS:
        raise ValueError(f"editor: there is no {editor}; there are {', '.join(KINDS)}.")
    kind = KINDS[editor]
    count, chosen = count_of(clips, CLIPS), chosen_of(methods or kind.methods, kind.methods)
    settings, lengths = settings or kind.settings(), _lengths(sizes, kind)
    # The weights too: rows of others would go on beside these.
    weights = None if world else config_of(kind.weights)["sha256"]
    used = {"size": SIZE, "seed": SEED, "editor": weights, **asdict(settings)}
    with rows_folder(json_path) as rows_path:
        jobs = _jobs(kind, rows_path, count, chosen, lengths, used)
        with sharded() as (rank, processes):
            if json_path is None and processes > 1:
                raise ValueError("json: several processes share their rows through files; say where with --json FILE.")
            world = world or kind.load()
            for job in jobs:
                _measure(job, world, settings, rank, processes)
        if rank:
            return {}
        report = report_of(jobs, used, processes)
        show(report)
        if json_path is not None:
            path = Path(json_path)
            write_json(path, report)
            draw_sheet(path.with_suffix(".jpg"), jobs[0], world, SIZE)
            print(f"numbers: {path}\npictures: {path.with_suffix('.jpg')}")
            if len(report["lengths"]) > 1:
                plot = path.with_name(f"{path.stem}_length.png")
                draw_lengths(report["lengths"], plot)
                print(f"plot: {plot}")
    return report


def _lengths(sizes: Sequence[str] | None, kind: Kind) -> list[int]:
    if sizes is None:
        return list(LENGTHS)
    try:
        lengths = sorted({int(text) for text in sizes})
    except ValueError:
        raise ValueError(f"sizes: expected numbers of frames, such as 8,72, but got {','.join(sizes)}.") from None
    swap = kind.settings().swap
    assert swap is not None  # the default has one
    least = swap.group
    if lengths[0] < least:
        raise ValueError(f"sizes: a clip of {lengths[0]} frames has no group of {least}; name longer ones.")
    return lengths


def numbers_of(count: int) -> tuple[int, ...]:
    """Numbers of the first so many held-out edits, local and global ones in turn; ascending."""
    edits = [edit for _, edit in heldout_edits(5 * count)]
    kinds = ([n for n, edit in enumerate(edits) if is_local(edit) == local] for local in (True, False))
    return tuple(sorted([number for pair in zip(*kinds, strict=False) for number in pair][:count]))


def _jobs(kind: Kind, folder: Path, count: int, chosen: list[str], lengths: list[int],
          used: dict[str, Any]) -> list[Job]:  # fmt: skip
    """The table's clips first, then the series, short clips first."""
    numbers = numbers_of(count)
    series = tuple(clip for clip in numbers if clip in SERIES)
    long = [method for method in kind.at_length if method in chosen]
    wanted = [(FRAMES, numbers, chosen)]
    wanted += [(frames, series, long) for frames in lengths if frames != FRAMES]
    return [Job(kind, Journal(folder / str(frames), {"frames": frames, **used}), frames, clips, methods)
            for frames, clips, methods in wanted if clips and methods]  # fmt: skip


def _measure(job: Job, world: World, settings: Any, rank: int, processes: int) -> None:
    """Run and keep what is not finished."""
    edits = dict(enumerate(edit for _, edit in heldout_edits(max(job.clips) + 1)))
    todo = {clip: [m for m in job.kind.methods_of(edits[clip], job.methods) if job.journal.find(clip, m) is None]
            for clip in job.clips[rank::processes]}  # fmt: skip
    left = [clip for clip, methods in todo.items() if methods]
    for clip, case in zip(left, world.cases(len(edits), job.frames, SIZE, left), strict=True):
        prepared = _prepared(job, clip, case, world, settings)
        for method in tqdm(todo[clip], desc=f"bench via, {job.frames} frames, edit {clip}", disable=None):
            edited, seconds = job.kind.edit(world, case, method, settings, prepared, SEED + clip)
            row = {"method": method, "clip": case.name, "number": clip, "kind": case.edit.kind, "frames": job.frames}
            row |= {**score(world, case, edited), "seconds_per_frame": seconds}
            row["boundary_error"] = metrics.boundary_error(edited.frames, case.truth.frames, object_mask(case))
            job.journal.keep(clip, method, row, edited.frames[:: -(-job.frames // KEPT)])
            print(f"{case.name}: {method}, {job.frames} frames: {row['psnr_truth']:.1f} dB to the truth", flush=True)


def _prepared(job: Job, clip: int, case: Case, world: World, settings: Any) -> Any:
    """What the methods of the clip share; an adaptation that is found again took the time that it took.

    The series asks what length does, so that all of its clips have the adaptation of the table's.
    """
    rooted = None if job.frames == FRAMES else next(world.cases(clip + 1, FRAMES, SIZE, {clip}))
    prepared_at = job.journal.folder.parent / "adapted"
    prepared = job.kind.prepare(world, case, settings, SEED + clip, prepared_at, rooted)
    note = prepared_at / f"{clip:02d}.json"
    if prepared.tuned.from_cache and note.is_file():
        return replace(prepared, adaptation_seconds=json.loads(note.read_text(encoding="utf-8"))["seconds"])
    write_json(note, {"seconds": prepared.adaptation_seconds, "losses": prepared.tuned.losses})
    return prepared
