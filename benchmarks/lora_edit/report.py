"""What the benchmark of LoRA-Edit says: numbers, tables, claims, pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from torch.nn.functional import cosine_similarity

from ...vision import metrics
from ..common.claims import LORA_EDIT_CLAIMS, LORA_EDIT_TURNING_CLAIMS, claim_line, claims
from ..common.clock import clock
from ..common.journal import Journal
from ..common.pictures import clip_strips
from ..common.plots import Panel, draw_panels
from ..common.report import meta, rows, table
from ..common.scores import KEYS as COMMON
from ..common.scores import judged_names, score
from .cases import PLAIN, TURNING, VideoCase, cases

if TYPE_CHECKING:
    from torch import Tensor

    from ..common.cases import World
    from ..common.edited import Edited

#: Methods, clips and one in so many frames on the contact sheet.
SHOWN = ("untuned", "naive-lora", "untuned-mask", "mask-lora", "mask-lora-reference")
MOST_CLIPS, STRIDE = 3, 2

_COMMON = {key: look for key, look in COMMON.items() if not key.endswith("_shift")}
KEYS: dict[str, tuple[str, str, int]] = {
    **{key: _COMMON[key] for key in list(_COMMON)[:4]},
    "boundary_error": ("boundary", ".4f", -1),
    "seam_error": ("boxes' border", ".4f", -1),
    "clip_score_first_frame": ("CLIP Score", ".4f", 1),
    "input_similarity": ("Input Similarity", ".4f", 1),
    **{key: _COMMON[key] for key in list(_COMMON)[4:]},
}

#: What the tables do not say by themselves; part of the JSON.
NOTES = (
    "plain: edits of the object's colour, shape or texture, so that the first frame tells all; turning: the object "
    "shows another side from frame 5 on, whose edited colour the first frame does not tell.",
    "Masks are the boxes of the original object, as a user has them; they have no part in the scores but seam_error, "
    "the error to the truth around the boxes' edge. boundary_error is the same around the object's, before or after.",
    "edit_kept: the share of clips in which the judge sees the edit, by frame; edit_accuracy is its mean.",
    "clip_score_first_frame: mean cosine of a frame's CLIP embedding and the edited first frame's; input_similarity: "
    "and that of the same frame of the input.",
    "anyv2v is inspired by that method: shares of the steps as published, on a video transformer (methods/anyv2v says "
    "what differs), at this table's steps and guidance.",
    "Frames 0 to 12 are true to a sixth of the toy world's speed. train_seconds are wall-clock, of all stages; "
    "infer_seconds too. Where several methods share a training, peak_mb is of what was left to do.",
)


def measured(world: World, found: VideoCase, edited: Edited) -> dict[str, Any]:
    """Every key of ``KEYS`` for one clip, and ``edit_kept``: by frame, 1 where the judge sees the edit."""
    case, frames = found.case, edited.frames
    values = score(world, case, edited)
    kept = [float(seen == wanted) for seen, wanted in zip(judged_names(world, case, frames), found.wanted, strict=True)]
    own, first, before = (world.embed(part, "")[0] for part in (frames, case.truth.frames[:1], case.source.frames))
    thing = case.source.masks[0].maximum(case.truth.masks[0])
    values |= {
        "edit_accuracy": fmean(kept),
        "boundary_error": metrics.boundary_error(frames, case.truth.frames, thing),
        "seam_error": metrics.boundary_error(frames, case.truth.frames, found.boxes),
        "clip_score_first_frame": float(cosine_similarity(own, first).mean()),
        "input_similarity": float(cosine_similarity(own, before).mean()),
    }
    return {**{key: values[key] for key in KEYS}, "edit_kept": kept}


def summed(clips: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a table, ``edit_kept`` among them: its mean over the clips, frame by frame."""
    found = rows(clips, KEYS)
    for row in found:
        own = [clip["edit_kept"] for clip in clips if clip["method"] == row["method"]]
        row["edit_kept"] = [fmean(frame) for frame in zip(*own, strict=True)]
    return found


def report_of(
    journals: dict[str, Journal], numbers: dict[str, tuple[int, ...]], methods: dict[str, list[str]],
    used: dict[str, Any], processes: int,
) -> dict[str, Any]:  # fmt: skip
    """What the JSON file holds; see ``NOTES``.

    Raises:
        ValueError: a row is missing.
    """
    found = {part: journals[part].report(numbers[part], methods[part]) for part in journals if methods[part]}
    asked = {PLAIN: LORA_EDIT_CLAIMS, TURNING: LORA_EDIT_TURNING_CLAIMS}
    tables = {part: summed(clips) for part, (clips, _) in found.items()}
    return {
        "meta": meta(used["seed"], len(numbers[PLAIN]), settings=used, notes=NOTES, processes=processes,
                     clock=clock()[1], numbers={part: list(own) for part, own in numbers.items()},
                     measured={part: how for part, (_, how) in found.items()}),
        "rows": tables[PLAIN],
        **tables,
        "claims": [{"clips": part, **claim} for part, (clips, _) in found.items()
                   for claim in claims(clips, asked[part])],
        "clips": [row for clips, _ in found.values() for row in clips],
    }  # fmt: skip


def show(report: dict[str, Any]) -> None:
    """Print the tables, the edit's course over the frames, and the claims."""
    for part in (PLAIN, TURNING):
        if part in report:
            print(f"\n{part} clips; * : paired 95 % interval of the difference to the first row excludes 0.")
            print(table(report[part], KEYS))
            for row in report[part]:
                print(f"edit kept by frame, {row['method']}: " + " ".join(f"{share:.0%}" for share in row["edit_kept"]))
    for claim in report["claims"]:
        print(f"{claim['clips']}: {claim_line(claim, KEYS[claim['key']][1])}")


def draw_curves(report: dict[str, Any], path: Path) -> None:
    """``edit_kept`` against the frame."""
    panels = [
        Panel(f"edit kept, {part} clips", "frame", {
            row["method"]: list(enumerate(map(float, row["edit_kept"]))) for row in report[part]}, even=True)
        for part in (PLAIN, TURNING) if part in report
    ]  # fmt: skip
    draw_panels(panels, path)


def draw_sheet(
    path: Path, journals: dict[str, Journal], numbers: dict[str, tuple[int, ...]], methods: dict[str, list[str]],
    world: World, frames: int, size: int,
) -> None:  # fmt: skip
    """Source, rivals, LoRA-Edit and truth of a few edits."""
    from ...video.sheet import contact_sheet

    strips: list[tuple[str, str, Tensor]] = []
    for part, journal in journals.items():
        shown = [method for method in SHOWN if method in methods[part]]
        own = numbers[part][: MOST_CLIPS if part == PLAIN else 1] if shown else ()
        for number, found in zip(own, cases(world, part, own, frames, size) if own else (), strict=True):
            edits = ((method, journal.row(number, method), journal.frames(number, method, frames))
                     for method in shown)  # fmt: skip
            strips += clip_strips(found.case, edits, STRIDE, _kept_and_inside,
                                  ", and its other side" if part == TURNING else "")  # fmt: skip
    contact_sheet(path, "LoRA-Edit: source, edits, true answer", strips, side=80)


def _kept_and_inside(row: dict[str, Any]) -> str:
    return f"edit kept {row['edit_accuracy']:.0%}\ninside {row['psnr_inside']:.1f} dB"
