"""Methods on a curated set: ``python -m steadyedit bench curated --manifest SET/manifest.csv``.

The clips and prompts are those of the manifest that ``steadyedit curate`` writes and a person corrects; what can be
measured is what DAPE's paper measures, since nobody knows the true edits. The models are the toy world's, which know
its shapes and words only: on other footage the command shows that a set can be run, not how good a method is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from ...methods.content_hash import content_hash
from ...vision.flow import estimate_flow
from ...vision.measured import along_flow, by_clip, flows_of
from ..common.asked import chosen_of, count_of, rows_folder, written
from ..common.cases import World
from ..common.edited import Settings
from ..common.journal import Journal
from ..common.report import meta, rows, table
from ..ei2.methods import METHODS as ALL
from ..ei2.methods import edit as run
from .cases import Asked, CuratedCase, asked_of, cases

if TYPE_CHECKING:
    from torch import Tensor

    from ..common.edited import Edited

FRAMES, SIZE, SEED = 8, 128, 0
#: The rivals on Prompt-to-Prompt ask where the toy world's captions name their object.
METHODS = tuple(method for method in ALL if method not in ("video-p2p", "vid2vid-zero"))
FIRST = ("per-frame", "tune-a-video", "ei2")

#: DAPE's five measures and LoRA-Edit's similarity, by their names in ``vision.measured``.
KEYS: dict[str, tuple[str, str, int]] = {
    "CLIP-Frame": ("CLIP-Frame", ".4f", 1),
    "Interpolation Error (flow)": ("Interpolation Error", ".5f", -1),
    "Interpolation PSNR (flow)": ("Interpolation PSNR", ".2f", 1),
    "Warping Error": ("Warping Error", ".6f", -1),
    "CLIP-Text": ("CLIP-Text", ".4f", 1),
    "Input Similarity": ("Input Similarity", ".4f", 1),
    "train_seconds": ("train s", ".1f", -1),
    "infer_seconds": ("infer s", ".1f", -1),
}
NOTES = (
    "Flow is estimated in the edited clip, by Lucas-Kanade (RAFT comes with ComfyUI); no truth is known.",
    "CLIP is the toy world's: it knows the toy world's words and shapes only.",
)


def main(
    clips: int | None = None, methods: Sequence[str] | None = None, json_path: Path | None = None, *,
    manifest: Path, settings: Settings | None = None, world: World | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Measure, print the table, and write the numbers.

    Args:
        clips: number of edits, the manifest's first; all if None. A clip has up to five.
        methods: slugs of ``METHODS``, ``FIRST`` if None; intervals are against the first.
        json_path: where the numbers go; finished rows lie beside it in NAME.rows.
        manifest: of ``steadyedit curate``.
        settings, world: other than `bench ei2`'s and the committed models.

    Raises:
        ValueError: an unknown method, no edit, a manifest or clips that do not fit, or rows of other settings.
    """
    chosen = chosen_of(methods or FIRST, METHODS)
    asked = asked_of(Path(manifest))
    asked = asked[: count_of(clips, len(asked))]
    settings = settings or Settings.of_the_table()
    # The words and files too: rows of others would go on beside these.
    edits_hash = content_hash(*(value for edit in asked for value in (edit.caption, edit.prompt, str(edit.file))))
    used = {"frames": FRAMES, "size": SIZE, "seed": SEED, "edits": edits_hash, **asdict(settings)}
    with rows_folder(json_path) as rows_path:
        journal = Journal(rows_path, used)
        world = world or World.load()
        left = [edit for edit in asked if any(journal.find(edit.number, method) is None for method in chosen)]
        for edit, case in zip(left, cases(world, left, FRAMES, SIZE), strict=True):
            _measure(edit, case, chosen, journal, world, settings)
        measured, how = journal.report((edit.number for edit in asked), chosen)
    report: dict[str, Any] = {
        "meta": meta(SEED, len(asked), settings=used, notes=NOTES) | how, "rows": rows(measured, KEYS),
        "by_kind": {kind: rows([row for row in measured if row["kind"] == kind], KEYS)
                    for kind in dict.fromkeys(edit.kind for edit in asked)},
        "clips": measured,
    }  # fmt: skip
    print(f"\n{len(asked)} edits of {len({edit.file for edit in asked})} clips; * : paired 95 % interval of the "
          "difference to the first row excludes 0.")  # fmt: skip
    print(table(report["rows"], KEYS))
    return written(report, json_path)


def _measure(edit: Asked, case: CuratedCase, chosen: list[str], journal: Journal, world: World, settings: Settings
             ) -> None:  # fmt: skip
    """Run and keep what is not finished."""
    for method in tqdm(chosen, desc=f"bench curated, {edit.name}", disable=None):
        if journal.find(edit.number, method) is None:
            edited = run(world, case, method, settings, SEED + edit.number)  # type: ignore[arg-type]  # all it reads
            row = {"method": method, "clip": edit.name, "kind": edit.kind, "difficulty": edit.difficulty,
                   **scores(world, case, edited, edit.prompt)}  # fmt: skip
            journal.keep(edit.number, method, row, edited.frames)
            print(f"{edit.name}: {method}", flush=True)


def scores(world: World, case: CuratedCase, edited: Edited, prompt: str) -> dict[str, float | None]:
    """Every key of ``KEYS``."""
    embeddings, text = world.embed(edited.frames, prompt)
    flow, valid = flows_of(edited.frames, _flow)
    values = by_clip(embeddings, text, world.embed(case.frames, "")[0]) | along_flow(edited.frames, flow, valid)
    values |= {"train_seconds": edited.train_seconds, "infer_seconds": edited.infer_seconds}
    return {key: values[key] for key in KEYS}


def _flow(one: Tensor, two: Tensor) -> Tensor:
    return estimate_flow(torch.stack([one, two]))[0]
