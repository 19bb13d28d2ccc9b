"""What the benchmark of VIA says: numbers, tables, claims, pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...toyworld import heldout_edits
from ...toyworld.world.edits import LOCAL
from ..common.claims import claim_line, claims
from ..common.clock import clock
from ..common.journal import Journal
from ..common.pictures import clip_strips
from ..common.plots import Panel, draw_panels
from ..common.report import meta, rows, table
from ..common.scores import KEYS as COMMON
from .methods import Kind

if TYPE_CHECKING:
    from torch import Tensor

    from ..common.cases import World

#: Frames of the clips of the table; and the edits of the series, by their number there: a local and a global one.
FRAMES, SERIES = 24, (0, 3)
#: Lengths of the series, in frames.
LENGTHS = (8, 24, 72, 240)
#: Clips, and one in so many frames, on the contact sheet.
MOST_CLIPS, STRIDE = 4, 3

KEYS: dict[str, tuple[str, str, int]] = {
    **{key: COMMON[key] for key in list(COMMON)[:4]},
    "boundary_error": ("boundary", ".4f", -1),
    **{key: COMMON[key] for key in list(COMMON)[4:]},
    "seconds_per_frame": ("s a frame", ".2f", -1),
}

#: What the table does not say by itself; part of the JSON.
NOTES = (
    "local: edits of colour, shape, texture, with the object's true mask before and after; global: background, style.",
    "lengths: the edits of the series, by number of frames; all with the adaptation of the table's clip.",
    "All frames start from one noise. Seconds a frame: inversion where a blend needs it, sampling, decoding; by the "
    "clock that meta names. infer_seconds are wall-clock.",
    "Masks and captions for the choice of the root pair are the renderer's own.",
)


@dataclass(frozen=True)
class Job:
    """Clips of one length.

    Args:
        kind: of the editor.
        journal: of the finished rows.
        frames: of each clip.
        clips: numbers of the edits.
        methods: in the order of the table.
    """

    kind: Kind
    journal: Journal
    frames: int
    clips: tuple[int, ...]
    methods: list[str]


def report_of(jobs: list[Job], used: dict[str, Any], processes: int) -> dict[str, Any]:
    """What the JSON file holds; see ``NOTES``.

    Args:
        jobs: the table's first.
        used: settings.

    Raises:
        ValueError: a row is missing.
    """
    kind = jobs[0].kind
    measured: list[dict[str, Any]] = []
    how: dict[str, Any] = {}
    for job in jobs:
        edits = [edit for _, edit in heldout_edits(max(job.clips) + 1)]
        alike: dict[tuple[str, ...], list[int]] = {}
        for clip in job.clips:
            alike.setdefault(tuple(job.kind.methods_of(edits[clip], job.methods)), []).append(clip)
        for methods, own in alike.items():
            found, known = job.journal.report(own, methods)
            how[f"{job.frames} frames, edits {', '.join(map(str, own))}"] = known
            measured += found
    of_table = sorted((row for row in measured if row["frames"] == FRAMES), key=lambda row: row["number"])
    parts = {name: [row for row in of_table if (row["kind"] in LOCAL) == local]
             for name, local in (("local", True), ("global", False))}  # fmt: skip
    lengths = {}
    for frames in sorted({job.frames for job in jobs}):
        series = [r for r in measured
                  if r["frames"] == frames and r["number"] in SERIES and r["method"] in kind.at_length]
        if series:
            lengths[str(frames)] = rows(_filled(series), KEYS)
    return {
        "meta": meta(
            used["seed"], len(jobs[0].clips), settings=used, frames=FRAMES, notes=[*NOTES, *kind.notes],
            processes=processes, clock=clock()[1], measured=how,
            clips_at_length={str(job.frames): list(job.clips) for job in jobs},
            not_measured=[f"{frames} frames" for frames in LENGTHS if frames not in {job.frames for job in jobs}],
        ),
        # A method that was run on some of the clips only has no value on the others.
        "rows": rows(_filled(of_table), KEYS),
        **{name: rows(_filled(own), KEYS) for name, own in parts.items() if own},
        "claims": claims(_common(of_table), kind.claims) + claims(parts["local"], kind.local_claims),
        "lengths": lengths,
        "clips": measured,
    }  # fmt: skip


def _common(clips: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the methods that were run on every clip."""
    numbers = {row["number"] for row in clips}
    seen: dict[str, set[int]] = {}
    for row in clips:
        seen.setdefault(row["method"], set()).add(row["number"])
    return [row for row in clips if seen[row["method"]] == numbers]


def _filled(clips: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, and one without values for each method and clip that there is not."""
    methods = dict.fromkeys(row["method"] for row in clips)
    there = {(row["number"], row["method"]): row for row in clips}
    numbers = sorted({row["number"] for row in clips})
    return [there.get((n, m), {"method": m, "clip": n, **dict.fromkeys(KEYS)}) for n in numbers for m in methods]


def show(report: dict[str, Any]) -> None:
    """Print the tables and the claims."""
    for name in ("local", "global"):
        if name in report:
            print(f"\n{name} edits, {FRAMES} frames; * : paired 95 % interval excludes 0.")
            print(table(report[name], KEYS))
    for frames, own in report["lengths"].items():
        print(f"\n{frames} frames, edits {', '.join(map(str, SERIES))}")
        print(table(own, KEYS))
    for claim in report["claims"]:
        print(claim_line(claim, KEYS[claim["key"]][1]))


def draw_sheet(path: Path, job: Job, world: World, size: int) -> None:
    """Source, rivals, VIA and truth of a few edits."""
    from ...video.sheet import contact_sheet

    shown = [method for method in job.kind.shown if method in job.methods]
    clips = job.clips[:MOST_CLIPS]
    strips: list[tuple[str, str, Tensor]] = []
    for clip, case in zip(clips, world.cases(max(clips) + 1, job.frames, size, clips), strict=True):
        edits = ((method, job.journal.row(clip, method), job.journal.frames(clip, method, job.frames))
                 for method in shown)  # fmt: skip
        strips += clip_strips(case, edits, STRIDE)
    contact_sheet(path, "VIA: source, edits, true answer", strips, side=80)


def draw_lengths(lengths: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Cost and flicker against the length of the clip."""

    def curves(key: str) -> dict[str, list[tuple[float, float]]]:
        found: dict[str, list[tuple[float, float]]] = {}
        for frames, own in lengths.items():
            for row in own:
                found.setdefault(row["method"], []).append((float(frames), row[key]))
        return found

    panels = [Panel(title, "frames of the clip", curves(key))
              for key, title in (("seconds_per_frame", "seconds a frame"), ("flicker", "flicker"))]  # fmt: skip
    draw_panels(panels, path)
