"""EI2 against its rivals on held-out toy edits: ``python -m steadyedit bench ei2``.

Every method starts from the same weights, is tuned by the same recipe for the same number of
steps on the same clip with the same seed, inverts with the empty prompt, and samples with the
same guidance. One method after the other on a clip, so that a slow moment of the machine
falls on all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ._cases import World
from ._methods import FIRST, METHODS, Settings, edit
from ._report import meta, rows, table, write_json
from ._scores import KEYS, score

if TYPE_CHECKING:
    from torch import Tensor

    from ._cases import Case

FRAMES, SIZE, SEED = 8, 128, 0


def main(
    clips: int | None = None,
    methods: Sequence[str] | None = None,
    json_path: Path | None = None,
    *,
    sheet_path: Path | None = None,
    settings: Settings | None = None,
    world: World | None = None,
) -> dict[str, Any]:
    """Measure, print the table, and write the numbers and a contact sheet.

    Args:
        clips: number of held-out edits, 4 if None.
        methods: slugs of ``_methods.METHODS``; intervals are against the first one.
        json_path: where the numbers go; the sheet goes beside it as a .png.
        sheet_path: where the sheet goes instead.
        settings, world: other than the toy graph's and the committed models.

    Returns:
        what the JSON file holds.

    Raises:
        ValueError: an unknown method, or no clip.
    """
    count, chosen = 4 if clips is None else clips, list(dict.fromkeys(methods or FIRST))
    unknown = [method for method in chosen if method not in METHODS]
    if unknown:
        raise ValueError(f"methods: there is no {', '.join(unknown)}; there are {', '.join(METHODS)}.")
    if count < 1:
        raise ValueError(f"clips: at least 1 is needed, but got {count}.")
    if sheet_path is None and json_path is not None:
        sheet_path = Path(json_path).with_suffix(".png")
    settings, world = settings or Settings.shipped(), world or World.load()
    measured: list[dict[str, Any]] = []
    strips: list[tuple[str, str, Tensor]] = []
    with tqdm(total=count * len(chosen), desc="bench ei2", unit="edit", position=0) as bar:
        for index, case in enumerate(world.cases(count, FRAMES, SIZE)):
            pictures = {}
            for method in chosen:
                bar.set_postfix_str(f"{method}: {case.edit.instruction}")
                edited = edit(world, case, method, settings, SEED + index)
                measured.append({"method": method, "clip": case.name, **score(world, case, edited, settings)})
                pictures[method] = edited.frames
                bar.update()
            if len(strips) < MOST_STRIPS:
                strips += _strips(case, pictures, measured)
    summary = rows(measured, KEYS)
    settings_used = {"frames": FRAMES, "size": SIZE, **asdict(settings)}
    report = {"meta": meta(SEED, count, settings=settings_used), "rows": summary, "clips": measured}
    print(f"\nAll methods tuned for {settings.recipe.steps} steps; {count} clips; * : paired 95 % interval excludes 0.")
    print(table(summary, KEYS))
    if json_path is not None:
        write_json(json_path, report)
        print(f"numbers: {json_path}")
    if sheet_path is not None:
        from ..standalone.sheet import contact_sheet

        contact_sheet(Path(sheet_path), "source, edits, true answer", strips, side=112)
        print(f"pictures: {sheet_path}")
    return report


#: Rows on the contact sheet, more would be scrolled past; and letters in a line beside one.
MOST_STRIPS, LINE = 60, 30


def _strips(case: Case, pictures: dict[str, Tensor], measured: list[dict[str, Any]]) -> list[tuple[str, str, Tensor]]:
    """Rows of the contact sheet for one case."""
    scores = {row["method"]: row for row in measured if row["clip"] == case.name}
    edits = [
        (method, f"edit right {row['edit_accuracy']:.0%}\n{row['psnr_truth']:.1f} dB to the truth", pictures[method])
        for method, row in scores.items()
    ]
    return [
        ("source", fill(case.source.caption, LINE), case.source.frames),
        *edits,
        ("true answer", fill(case.edit.instruction, LINE), case.truth.frames),
    ]
