"""DAPE on other methods, its ablations and its rivals: ``python -m steadyedit bench dape``.

Every variant starts from the same base (the plain model; Tune-A-Video or EI2, tuned on the clip;
RAVE), is trained on the same clip with the same seed, inverts with the empty prompt, and samples
with the same guidance. Intervals are against the base's own row "base", paired over clips.
Finished rows lie beside the JSON, in NAME.rows: the same command goes on where it was stopped,
and several processes (``--workers``, torchrun) share the clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ...vision import metrics
from ..common.asked import chosen_of, count_of, rows_folder, scale_of
from ..common.cases import World
from ..common.claims import DAPE_CLAIMS, claim_line, claims
from ..common.journal import Journal
from ..common.pictures import clip_strips
from ..common.report import meta, rows, table, write_json
from ..common.scores import KEYS as COMMON
from ..common.scores import score
from ..common.shards import sharded
from .methods import BASES, METHODS, Bench, Settings, Trained

if TYPE_CHECKING:
    from ..common.cases import Case

FRAMES, SIZE, SEED, CLIPS = 8, 128, 0, 4
#: On the contact sheet: methods, clips, one in so many frames.
SHOWN, MOST_CLIPS, STRIDE = ("base", "dape"), 3, 2
#: What runs when nobody says which.
FIRST_BASES = ("per-frame", "tune-a-video-per-frame", "ei2")

#: The paper's five measures by its names, then the common ones that they do not name.
PAPER: dict[str, tuple[str, str, int]] = {
    "clip_frame": ("CLIP-Frame", ".4f", 1),
    "interpolation_error": ("Interpolation Error", ".5f", -1),
    "interpolation_psnr": ("Interpolation PSNR", ".3f", 1),
    "warp_error": ("Warping Error", ".6f", -1),
    "clip_text": ("CLIP-Text", ".4f", 1),
}
KEYS = {
    **PAPER,
    **{key: look for key, look in COMMON.items() if key not in PAPER and not key.endswith("_shift")},
    "trained": ("trained", ".0f", 0),
}

NOTES = (
    "Interpolation and warping follow the true flow of the edited clip: no interpolation or flow network.",
    "Rows are compared with the row base of the same base; a difference without a star is within noise.",
    "dape is positions-5: the adapter at attention stage 5. All two-stage rows share stage 1 on a clip.",
    "Rivals train for as many steps as both stages together, at stage 1's learning rate and with its loss.",
    "per-frame, rave and flickering have one model, which a clip trains once for all of them; flickering has an "
    "ancestral sampler, each frame with noise of its own, whose share bench flickering chose.",
    "tune-a-video-per-frame is inspired by that method: the table's steps of tuning, and norms per frame, since stage "
    "1 adjusts a frame's.",
    "At --steps S all of DAPE's and the rivals' steps are times S and learning rates divided by S.",
    "Under rave training and inversion go frame by frame without ControlNet; sampling is in grids with it.",
)


def main(
    clips: int | None = None,
    methods: Sequence[str] | None = None,
    json_path: Path | None = None,
    bases: Sequence[str] | None = None,
    steps: float | None = None,
    *,
    settings: Settings | None = None,
    world: World | None = None,
) -> dict[str, Any]:
    """Measure, print the tables, and write the numbers and a contact sheet.

    Args:
        clips: number of held-out edits, ``CLIPS`` if None.
        methods: slugs of ``methods.METHODS``, all if None; "base" is always among them.
        json_path: where the numbers go; the sheet goes beside it as NAME.jpg, finished rows into a
            folder NAME.rows.
        bases: slugs of ``methods.BASES``, ``FIRST_BASES`` if None.
        steps: scale of the published numbers of steps, see ``Settings``.
        settings, world: other than the table's and the committed models.

    Returns:
        what the JSON file holds; where several processes share the work, one of them
        writes it and the others return nothing.

    Raises:
        ValueError: an unknown method or base, no clip, a scale that is not positive, several
            processes without a file, or rows that were measured with other settings.
    """
    chosen, below = chosen_of(["base", *(methods or METHODS)], METHODS), chosen_of(bases or FIRST_BASES, BASES, "bases")
    count = count_of(clips, CLIPS)
    settings = settings or Settings(scale=scale_of(1.0 if steps is None else steps))
    used = {"frames": FRAMES, "size": SIZE, "seed": SEED, **asdict(settings)}
    with rows_folder(json_path) as rows_path:
        journals = {base: Journal(rows_path / base, used) for base in below}
        with sharded() as (rank, processes):
            if json_path is None and processes > 1:
                raise ValueError("json: several processes share their rows through files; say where with --json FILE.")
            _measure(range(rank, count, processes), count, chosen, journals, settings, world)
        if rank:
            return {}
        found = {base: journal.report(range(count), chosen) for base, journal in journals.items()}
        if json_path is not None:
            _draw_sheet(Path(json_path).with_suffix(".jpg"), count, chosen, journals, world or World.load())
    report = _report(found, count, used, processes)
    _show(report, settings)
    if json_path is not None:
        write_json(json_path, report)
        print(f"numbers: {json_path}\npictures: {Path(json_path).with_suffix('.jpg')}")
    return report


def _measure(
    own: Sequence[int], count: int, methods: Sequence[str], journals: dict[str, Journal], settings: Settings,
    world: World | None,
) -> None:  # fmt: skip
    """Run and keep what is not finished, clip by clip."""
    todo = {(clip, base): [m for m in methods if journal.find(clip, m) is None]
            for clip in own for base, journal in journals.items()}  # fmt: skip
    left = sorted({clip for (clip, _), missing in todo.items() if missing})
    if not left:
        return
    world = world or World.load()
    total = sum(map(len, todo.values()))
    with tqdm(total=total, desc="bench dape", unit="edit", position=0, disable=None) as bar:
        for clip, case in zip(left, world.cases(count, FRAMES, SIZE, left), strict=True):
            known: Trained = {}
            benches = {base: Bench(world, case, base, settings, SEED + clip, known)
                       for base in journals if todo[clip, base]}  # fmt: skip
            # Method by method, so that an interrupted run has lost one training at the most.
            for method, base in product(methods, benches):
                if method not in todo[clip, base]:
                    continue
                bar.set_postfix_str(f"{base}, {method}: {case.edit.instruction}")
                edited, trained = benches[base].edit(method)
                row = _row(world, case, edited, settings)
                named = {"base": base, "method": method, "clip": case.name}
                journals[base].keep(clip, method, {**named, **row, "trained": trained}, edited.frames)
                bar.update()
                if bar.disable:
                    print(f"{case.name}: {base}, {method}: {row['psnr_truth']:.2f} dB to the truth", flush=True)


def _row(world: World, case: Case, edited: Any, settings: Settings) -> dict[str, float | None]:
    """The keys of ``KEYS`` but the count of what was trained."""
    interpolated = metrics.interpolation(edited.frames, case.truth.flow, case.truth.flow_valid) or (None, None)
    values = score(world, case, edited, settings.common)
    values |= dict(zip(("interpolation_error", "interpolation_psnr"), interpolated, strict=True))
    return {key: values[key] for key in KEYS if key != "trained"}


def _report(found: dict[str, tuple[list, dict]], count: int, used: dict[str, Any], processes: int) -> dict[str, Any]:
    how = {base: measurement for base, (_, measurement) in found.items()}
    return {
        "meta": meta(SEED, count, settings=used, notes=NOTES, processes=processes, interpolator="true flow",
                     flow="true flow", paper={key: look[0] for key, look in PAPER.items()}, measured=how),
        "rows": [{"base": base, **row} for base, (clips, _) in found.items() for row in rows(clips, KEYS)],
        "claims": [{"base": base, **claim} for base, (clips, _) in found.items()
                   for claim in claims(clips, DAPE_CLAIMS)],
        "clips": [row for clips, _ in found.values() for row in clips],
    }  # fmt: skip


def _show(report: dict[str, Any], settings: Settings) -> None:
    print(f"\n{report['meta']['clips']} clips; published steps times {settings.scale:g}; * : paired 95 % interval of "
          "the difference to the base excludes 0; interpolation and warping along the true flow.")  # fmt: skip
    for base in dict.fromkeys(row["base"] for row in report["rows"]):
        print(f"\n{base}:")
        print(table([row for row in report["rows"] if row["base"] == base], KEYS))
        for claim in report["claims"]:
            if claim["base"] == base:
                print(claim_line(claim, KEYS[claim["key"]][1]))


def _draw_sheet(path: Path, count: int, methods: Sequence[str], journals: dict[str, Journal], world: World) -> None:
    """Source, every base without and with DAPE, and truth of a few edits."""
    from ...video.sheet import contact_sheet

    strips, shown = [], [method for method in SHOWN if method in methods]
    clips = range(min(count, MOST_CLIPS))
    for clip, case in zip(clips, world.cases(count, FRAMES, SIZE, clips), strict=True):
        strips += clip_strips(case, (
            (base if method == "base" else f"{method} on {base}", journal.row(clip, method),
             journal.frames(clip, method, FRAMES))
            for base, journal in journals.items() for method in shown), STRIDE)  # fmt: skip
    contact_sheet(path, "DAPE: source, edits, true answer", strips, side=80)
