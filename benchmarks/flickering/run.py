"""How much noise of its own each frame of DAPE's *flickering* base has: ``python -m steadyedit bench flickering``.

The toy world is too calm for DAPE: along the clip's own path its frames agree to 0.99 without any tuning. A harder base
has an ancestral sampler, which draws noise for every frame at every step; its share is eta (``dape.methods``). It is
chosen here, on edits of the validation split, by the untuned base alone, no method of DAPE having run on it:

1. it flickers at least ``FLICKER[0]`` and at most ``FLICKER[1]`` times as much as without that noise;
2. the edit is right in at least ``RIGHT`` of all frames;
3. of the etas that meet both, the least.

These criteria stood first. A base that only starts from noise of each frame's own was tried by them before: up to a
share of 0.7 of it flickers as without (0.0147 against 0.0144).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ..common.asked import count_of, rows_folder, written
from ..common.cases import World
from ..common.journal import Journal
from ..common.report import meta, rows, table
from ..common.scores import KEYS as COMMON
from ..common.scores import score
from ..dape.methods import Bench, Settings
from ..dape.run import FRAMES, SEED, SIZE

if TYPE_CHECKING:
    from collections.abc import Mapping

ETAS = (0.0, 0.25, 0.5, 0.75, 1.0)
#: Bounds of the choice: of the flicker, times that of no noise of one's own; of the share of right frames.
FLICKER, RIGHT = (2.0, 4.0), 0.7
CLIPS = 10
KEYS = {key: COMMON[key] for key in ("edit_accuracy", "psnr_truth", "psnr_background", "flicker", "motion_error",
                                     "clip_frame", "clip_text", "warp_error")}  # fmt: skip


def main(
    clips: int | None = None,
    json_path: Path | None = None,
    *,
    etas: Sequence[float] = ETAS,
    settings: Settings | None = None,
    world: World | None = None,
) -> dict[str, Any]:
    """Measure every eta, print the table and the choice, and write the numbers.

    Args:
        clips: number of validation edits, ``CLIPS`` if None.
        json_path: where the numbers go; finished rows go beside it, into NAME.rows.
        etas: in the order of the table; flicker is compared with that of 0.
        settings, world: other than the table's and the committed models.

    Returns:
        what the JSON file holds.

    Raises:
        ValueError: no clip, or rows that were measured with other settings.
    """
    count = count_of(clips, CLIPS)
    settings, world = settings or Settings(), world or World.load()
    used = {"frames": FRAMES, "size": SIZE, "seed": SEED, "split": "validation", **asdict(settings.common)}
    with rows_folder(json_path) as folder:
        journal = Journal(folder, used)
        for clip, case in enumerate(tqdm(world.cases(count, FRAMES, SIZE, split="validation"), "bench flickering",
                                         count, disable=None)):  # fmt: skip
            for eta in etas:
                if journal.find(clip, str(eta)) is None:
                    bench = Bench(world, case, "flickering", replace(settings, eta=eta), SEED + clip)
                    edited, _ = bench.edit("base")
                    values = score(world, case, edited)
                    row = {"method": str(eta), "clip": case.name} | {key: values[key] for key in KEYS}
                    journal.keep(clip, str(eta), row, edited.frames)
        measured, how = journal.report(range(count), list(map(str, etas)))
    found = rows(measured, KEYS)
    chosen = choice({float(row["method"]): row for row in found})
    print(table(found, KEYS))
    print(f"flicker {FLICKER[0]:g} to {FLICKER[1]:g} times that of eta 0, right in {RIGHT:.0%} at least: "
          f"{'no eta' if chosen is None else f'eta {chosen:g}'}")  # fmt: skip
    about = meta(SEED, count, settings=used, flicker=FLICKER, right=RIGHT) | how
    return written({"meta": about, "chosen": chosen, "rows": found, "clips": measured}, json_path)


def choice(found: Mapping[float, Mapping[str, Any]]) -> float | None:
    """The least eta that meets both criteria, or None.

    Args:
        found: of every eta, 0 among them, its means.
    """
    calm = found[0.0]["flicker"]
    fit = [eta for eta, row in found.items()
           if FLICKER[0] <= row["flicker"] / calm <= FLICKER[1] and row["edit_accuracy"] >= RIGHT]  # fmt: skip
    return min(fit, default=None)
