"""LoRA-Edit on 49 frames with a model of 13: ``python -m steadyedit bench lora_edit_windows``.

Every method has the same weights, steps, noise and, on a clip, the same edited first frame, the truth's. The LoRA of
all windows is trained on windows drawn from the whole clip. Finished rows lie beside the JSON, in NAME.rows: the same
command goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from ...methods.lora_edit.clips import clip_ranges
from ...toyworld.models import config_of
from ...vision import metrics
from ..common.asked import chosen_of, count_of, rows_folder, written
from ..common.cases import World
from ..common.clock import timed
from ..common.journal import Journal
from ..common.report import meta, rows, table
from ..common.scores import judged_names
from ..lora_edit.cases import PLAIN, cases, numbers_of
from .methods import METHODS, Settings, edit, first_window

if TYPE_CHECKING:
    from torch import Tensor

    from ..lora_edit.cases import VideoCase

FRAMES, SIZE, SEED, CLIPS = 49, 128, 0, 6
#: Levels of a channel, in which a drift is told.
LEVELS = 255

#: name -> (heading, format, better: +1 more, -1 less, 0 neither).
KEYS: dict[str, tuple[str, str, int]] = {
    "edit_kept": ("edit kept", ".0%", 1),
    "edit_kept_last": ("in the last window", ".0%", 1),
    "psnr_inside": ("inside", ".2f", 1),
    "psnr_background": ("background", ".2f", 1),
    "drift_inside": ("drift inside", ".3f", -1),
    "drift_background": ("drift outside", ".3f", -1),
    "flicker_inside": ("flicker in windows", ".4f", -1),
    "flicker_joins": ("at joins", ".4f", -1),
    "seam_error": ("boxes' border", ".4f", -1),
    "seconds": ("s", ".0f", -1),
}
NOTES = (
    "windows: overlapping windows, of which each goes on from the last frames of the one before, and whose colours are "
    "brought to the source's outside of the mask; windows-unmatched: as they come. naive-chain: image-to-video from "
    "the last frame of the piece before, by a LoRA without the mask. native-piece: the clip's first window alone. "
    "one-piece: all frames at once, longer than what the model was trained on.",
    "A drift is the length of the slope, by frame, of the mean colour's difference to the truth, in levels of 255 a "
    "frame, inside of the object's true place or outside of the boxes.",
    "Flicker is of neighbouring frames; joins are where a window begins. seam_error: error to the truth around the "
    "boxes' edge. Masks are boxes around the original object.",
    "seconds are the processor's own, of training and sampling; methods that share a training count it at the first.",
)


def main(clips: int | None = None, methods: Sequence[str] | None = None, json_path: Path | None = None, *,
         settings: Settings | None = None, world: World | None = None, frames: int = FRAMES,
         size: int = SIZE) -> dict[str, Any]:  # fmt: skip
    """Measure, print the table and write the numbers.

    Args:
        clips: number of held-out edits, ``CLIPS`` if None.
        methods: of ``METHODS``; intervals are against the first one.
        json_path: where the numbers go.
        settings, world, frames, size: other than the table's.

    Returns:
        what the JSON file holds.

    Raises:
        ValueError: an unknown method, no clip, or rows that were measured with other settings.
    """
    count, chosen = count_of(clips, CLIPS), chosen_of(methods or METHODS, METHODS)
    settings, numbers = settings or Settings(), numbers_of(count)[PLAIN]
    weights = None if world else {name: config_of(name)["sha256"] for name in ("wan", "wan_vae")}
    used = {"frames": frames, "size": size, "seed": SEED, "weights": weights, **asdict(settings)}
    with rows_folder(json_path) as rows_path:
        journal = Journal(rows_path, used)
        todo = {number: [m for m in chosen if journal.find(number, m) is None] for number in numbers}
        if left := [number for number, missing in todo.items() if missing]:
            world = world or World.load(video=True)
            for number, found in zip(left, cases(world, PLAIN, left, frames, size), strict=True):
                _measure(world, found, number, todo[number], settings, journal)
        measured, how = journal.report(numbers, chosen)
    summary = rows(measured, KEYS)
    report = {"meta": meta(SEED, count, settings=used, notes=NOTES) | how, "rows": summary, "clips": measured}
    print(f"\n{frames} frames, the model's own length is {settings.length}; {count} clips; * : paired 95 % interval of "
          "the difference to the first row excludes 0.")  # fmt: skip
    print(table(summary, KEYS))
    return written(report, json_path)


def _measure(world: World, whole: VideoCase, number: int, methods: Sequence[str], settings: Settings,
             journal: Journal) -> None:  # fmt: skip
    for method in methods:
        how = METHODS[method]
        found = first_window(whole, settings.length) if how.cut else whole
        with timed() as seconds:
            frames = edit(world, found, how, settings, SEED + number, journal.folder / "trained")
        row = {"method": method, "clip": found.case.name, "kind": found.case.edit.kind,
               **scores(world, found, frames, settings), "seconds": seconds.own}  # fmt: skip
        journal.keep(number, method, row, frames)
        print(f"{found.case.name}: {method}: edit kept {row['edit_kept']:.0%}, drift inside {row['drift_inside']:.3f}, "
              f"{seconds.own:.0f} s", flush=True)  # fmt: skip


def scores(world: World, found: VideoCase, frames: Tensor, settings: Settings) -> dict[str, Any]:
    """Every key of ``KEYS`` but the time, and ``by_frame``: 1 where the judge sees the edit."""
    case, truth = found.case, found.case.truth
    thing = case.source.masks[0].maximum(truth.masks[0])
    outside = (found.boxes.maximum(thing) < 0.01).float()
    kept = [float(seen == wanted) for seen, wanted in zip(judged_names(world, case, frames), found.wanted, strict=True)]
    spans = clip_ranges(len(frames), settings.length, settings.overlap)
    joins = [span.stop - 1 for span in spans[:-1]]
    pairs = [metrics.flicker(frames[t : t + 2], truth.frames[t : t + 2], truth.flow[t : t + 1],
                             truth.flow_valid[t : t + 1]) for t in range(len(frames) - 1)]  # fmt: skip
    at = [pair for t, pair in enumerate(pairs) if t in joins and pair is not None]
    inside = [pair for t, pair in enumerate(pairs) if t not in joins and pair is not None]
    return {
        "edit_kept": fmean(kept),
        "edit_kept_last": fmean(kept[spans[-1].start :]),
        "psnr_inside": metrics.psnr(frames, truth.frames, thing),
        "psnr_background": metrics.psnr(frames, truth.frames, outside),
        "drift_inside": drift(frames, truth.frames, truth.masks[0]),
        "drift_background": drift(frames, truth.frames, outside),
        "flicker_inside": fmean(inside) if inside else None,
        "flicker_joins": fmean(at) if at else None,
        "seam_error": metrics.boundary_error(frames, truth.frames, found.boxes),
        "by_frame": kept,
    }


def drift(frames: Tensor, truth: Tensor, where: Tensor) -> float | None:
    """|b| of the least-squares line a + b t through the mean colour's difference to the truth, in levels a frame.

    Args:
        frames, truth: [F, H, W, 3] in 0..1.
        where: [F, H, W], weights; frames without any are left out.
    """
    weights = where.double().flatten(1)
    seen = weights.sum(1) > 0
    if seen.sum() < 2:
        return None
    total = ((frames - truth).double().flatten(1, 2)[seen] * weights[seen, :, None]).sum(1)
    error = total / weights[seen].sum(1, keepdim=True)
    t = torch.arange(len(frames), dtype=torch.float64)[seen]
    t = t - t.mean()
    return float(((t[:, None] * (error - error.mean(0))).sum(0) / (t**2).sum()).norm()) * LEVELS
