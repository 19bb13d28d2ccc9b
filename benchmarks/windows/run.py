"""Whole-clip methods on long toy clips, in windows with one choice of anchors or another: ``steadyedit bench windows``.

The methods of one base have the same weights, tuned on the clip's first frames where the base is tuned, and all have
the same inversion, noise levels and guidance. What differs is what a frame sees in one evaluation. By ``--methods``
Tune-A-Video and TokenFlow, too: ``tune-a-video-per-frame-whole``, ``tokenflow-first`` and so on. Finished rows
lie beside the JSON, in NAME.rows: the same command goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from ...diffusion.trajectory import Trajectory
from ...methods.approximate_windows import build_approximate_windows, windows_of
from ...methods.ei2 import build_ffam, build_stam
from ...methods.tokenflow import Source, build_tokenflow
from ...methods.tune_a_video import build_sparse_causal, build_temporal_attention
from ...methods.tune_recipe import TuneRecipe
from ...methods.tuning import tune
from ...vision import metrics
from ..common.asked import chosen_of, count_of, rows_folder, written
from ..common.cases import World
from ..common.clock import timed
from ..common.edited import GUIDANCE, Settings
from ..common.journal import Journal
from ..common.report import meta, rows, table
from ..common.scores import judged_names

if TYPE_CHECKING:
    from torch import Tensor

    from ..common.cases import Case

FRAMES, SIZE, SEED = 48, 128, 0

#: name -> (heading, format, better: +1 more, -1 less, 0 neither).
KEYS: dict[str, tuple[str, str, int]] = {
    "edit_accuracy": ("edit right", ".0%", 1),
    "psnr_truth": ("PSNR truth", ".2f", 1),
    "flicker_inside": ("flicker inside", ".4f", -1),
    "flicker_joins": ("at joins", ".4f", -1),
    "first_to_last": ("CLIP, first to last", ".4f", 1),
    "seconds": ("s", ".0f", -1),
}
#: What a frame sees; the first is the clip in one piece.
WINDOWS: dict[str, dict[str, Any] | None] = {
    "whole": None,
    "apart": {"overlap": 0, "anchors": "none"},
    "none": {"anchors": "none"},
    "first": {"anchors": "first"},
    "keyframes": {"anchors": "keyframes", "keyframes": 4},
}
#: What lets frames see each other; the first is meant where none is named.
BASES = ("ei2", "tune-a-video-per-frame", "tokenflow")
#: name -> base, windows.
METHODS: dict[str, tuple[str, dict[str, Any] | None]] = {
    (how if base == BASES[0] else f"{base}-{how}"): (base, windows) for base in BASES for how, windows in
    WINDOWS.items()}  # fmt: skip
NOTES = (
    "whole: all frames in one call. apart: windows without overlap and anchors, as if each were a clip of its own.",
    "none, first, keyframes: windows that overlap, with these anchors.",
    "Flicker is of pairs of neighbouring frames; a join is a pair in which another window has the largest share of the "
    "later frame. The whole clip's is measured at the joins of the overlapping windows.",
    "EI2, or Tune-A-Video, is tuned on the clip's first window; the inversion is frame by frame, by the model before "
    "tuning, so that all methods begin alike.",
    "tune-a-video-per-frame and tokenflow are inspired by those methods: norms per frame; a keyframe in four; the "
    "table's steps.",
)


@dataclass(frozen=True)
class Windowed:
    """What all methods have in common.

    Args:
        recipe: of the tuning, on the first ``length`` frames.
        steps: of inversion and of sampling.
        guidance: of the sampling.
        length, overlap: of the windows.
    """

    recipe: TuneRecipe = field(default_factory=lambda: Settings.of_the_table().recipe)
    steps: int = 8
    guidance: float = GUIDANCE
    length: int = 8
    overlap: int = 2


def main(clips: int | None = None, methods: Sequence[str] | None = None, json_path: Path | None = None, *,
         settings: Windowed | None = None, world: World | None = None, frames: int = FRAMES,
         size: int = SIZE) -> dict[str, Any]:  # fmt: skip
    """Measure, print the table and write the numbers.

    Args:
        clips: number of held-out edits, 2 if None.
        methods: of ``METHODS``, those of EI2 if None; intervals are against the first one.
        json_path: where the numbers go.
        settings, world, frames, size: other than the table's.

    Returns:
        what the JSON file holds.

    Raises:
        ValueError: an unknown method, no clip, or rows that were measured with other settings.
    """
    count, chosen = count_of(clips, 2), chosen_of(methods or WINDOWS, METHODS)
    settings = settings or Windowed()
    used = {"frames": frames, "size": size, "seed": SEED, **asdict(settings)}
    with rows_folder(json_path) as rows_path:
        journal = Journal(rows_path, used)
        todo = {clip: [m for m in chosen if journal.find(clip, m) is None] for clip in range(count)}
        todo = {clip: left for clip, left in todo.items() if left}
        world = world or World.load()
        for clip, case in zip(todo, world.cases(count, frames, size, todo), strict=True):
            _measure(world, case, clip, todo[clip], settings, journal)
        measured, how = journal.report(range(count), chosen)
    summary = rows(measured, KEYS)
    report = {"meta": meta(SEED, count, settings=used, notes=NOTES) | how, "rows": summary, "clips": measured}
    print(f"\n{frames} frames in windows of {settings.length}; {count} clips; * : paired 95 % interval excludes 0.")
    print(table(summary, KEYS))
    return written(report, json_path)


def _measure(world: World, case: Case, clip: int, methods: Sequence[str], settings: Windowed, journal: Journal) -> None:
    """Invert once, prepare each base once, then every method."""
    backend = world.backend
    sigmas = backend.schedule(world.model).ddim_sigmas(settings.steps)
    path = backend.invert(world.model, case.empty, case.samples, sigmas.flip(0), 0,
                          backend.progress(settings.steps, "inversion"))  # fmt: skip
    models: dict[str, Any] = {}
    for method in methods:
        base, windows = METHODS[method]
        if base not in models:
            models[base] = _prepared(world, case, base, SEED + clip, settings, Trajectory(path, sigmas.flip(0)))
        cut = models[base]
        if windows is not None:
            windows = {"length": settings.length, "overlap": settings.overlap, **windows}
            cut = backend.attach(cut, build_approximate_windows(backend.sites(world.model), **windows))
        with timed() as seconds:
            samples = backend.sample(cut, case.target_text, case.empty, settings.guidance, path[-1], sigmas,
                                     backend.progress(settings.steps, "sampling"))  # fmt: skip
        frames = world.vae.decode(samples)
        overlap = settings.overlap if windows is None else windows["overlap"]
        row = {"method": method, "clip": case.name, **scores(world, case, frames, joins_of(len(frames), settings.length,
                                                                                           overlap))}  # fmt: skip
        journal.keep(clip, method, {**row, "seconds": seconds.own}, frames)
        print(f"{case.name}: {method}: {row['flicker_joins']:.4f} at joins", flush=True)


def _prepared(world: World, case: Case, base: str, seed: int, settings: Windowed, inverted: Trajectory) -> Any:
    """The model of one base, tuned where it is."""
    backend, sites, model = world.backend, world.backend.sites(world.model), world.model
    if base == "tokenflow":
        return backend.attach(model, build_tokenflow(sites, source=Source(inverted, case.empty), spacing=4))
    parts = ((build_stam(sites, seed=seed), build_ffam(sites, ratio=2)) if base == "ei2"
             else (build_sparse_causal(sites), build_temporal_attention(sites, seed=seed)))  # fmt: skip
    for attachment in parts:
        model = backend.attach(model, attachment)
    return tune(backend, model, case.samples[: settings.length], case.source_text, settings.recipe).model


def joins_of(frames: int, length: int, overlap: int) -> list[int]:
    """Frames t behind which another window has the largest share, of t + 1."""
    shares = torch.zeros(frames, dtype=torch.float64)
    leading = torch.zeros(frames, dtype=torch.long)
    for n, window in enumerate(windows_of(frames, length, overlap)):
        for i, share in zip(window.frames, window.weights, strict=True):
            if share > shares[i] + 1e-9:
                shares[i], leading[i] = share, n
    return [t for t in range(frames - 1) if leading[t] != leading[t + 1]]


def scores(world: World, case: Case, frames: Tensor, joins: Sequence[int]) -> dict[str, float | None]:
    """Every key of ``KEYS`` but the time."""
    truth = case.truth
    pairs = [metrics.flicker(frames[t : t + 2], truth.frames[t : t + 2], truth.flow[t : t + 1],
                             truth.flow_valid[t : t + 1]) for t in range(len(frames) - 1)]  # fmt: skip
    at = [p for t, p in enumerate(pairs) if t in joins and p is not None]
    inside = [p for t, p in enumerate(pairs) if t not in joins and p is not None]
    looks, _ = world.embed(frames[[0, len(frames) - 1]], truth.caption)
    return {
        "edit_accuracy": metrics.edit_accuracy(judged_names(world, case, frames), case.edit.target),
        "psnr_truth": metrics.psnr(frames, truth.frames),
        "flicker_inside": fmean(inside) if inside else None,
        "flicker_joins": fmean(at) if at else None,
        "first_to_last": float(torch.nn.functional.cosine_similarity(looks[:1], looks[1:])),
    }
