"""Why VIA's adaptation takes results away from the truth: ``python -m steadyedit bench adaptation``.

Each frame by itself, without gather-swap and blend, so that nothing but the editor differs. One thing at a time is
changed in the adaptation of `bench via`: the root pair (the true one instead of the editor's own), the steps, the
rate, the augmentation, the rank, the attentions that are trained; and in how the adapted editor is used: the guidance
over the text, and half of the LoRA. ``--part hard`` asks the editor, adapted and not, for edits that it fails at.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ...methods.lora import UP
from ...methods.via.adapt import AdaptRecipe, adapt
from ...methods.via.augment import AffineRanges
from ...methods.via.candidates import chosen_frame
from ...methods.via.pipeline import ViaRecipe, find_root, sample_edit
from ...toyworld.models import config_of
from ...vision import metrics
from ..common.asked import chosen_of, count_of, rows_folder, written
from ..common.cases import World
from ..common.journal import Journal
from ..common.report import meta, rows, table
from ..common.scores import judged_names
from ..via.methods import Settings, choice, is_local, object_mask
from ..via.run import numbers_of
from . import hard

if TYPE_CHECKING:
    from torch import Tensor

    from ..common.cases import Case

#: Frames that are edited, and the clip that they are taken from evenly.
FRAMES, LENGTH, SIZE, SEED, CLIPS = 4, 24, 128, 0, 4
#: Maps that leave the pair as it is.
STILL = AffineRanges(0.0, 0.0, 0.0, (1.0, 1.0))


@dataclass(frozen=True)
class Method:
    """One row.

    Args:
        adapts: whether the editor is adapted at all.
        true_pair: to the true edit of the root frame, not the editor's own.
        strength: of the LoRA.
        guidance: over the text; None for the table's.
        layers: "attn1" (self-attention) or "attn2" (cross-attention) trains that alone; "" both.
        training: what differs in the training.
        recipe: what differs beside.
    """

    adapts: bool = True
    true_pair: bool = False
    strength: float = 1.0
    guidance: float | None = None
    layers: str = ""
    training: tuple[tuple[str, Any], ...] = ()
    recipe: tuple[tuple[str, Any], ...] = ()

    def adaptation(self, via: ViaRecipe) -> AdaptRecipe:
        """Of `bench via` with what differs."""
        own = via.adaptation or AdaptRecipe()
        return replace(own, training=replace(own.training, **dict(self.training)), **dict(self.recipe))


METHODS: dict[str, Method] = {
    "unadapted": Method(adapts=False),
    "adapted": Method(),
    "half-strength": Method(strength=0.5),
    "less-guidance": Method(guidance=1.5),
    "unadapted-less-guidance": Method(adapts=False, guidance=1.5),
    "true-pair": Method(true_pair=True),
    "steps-50": Method(training=(("steps", 50),)),
    "rate-3e-5": Method(training=(("learning_rate", 3e-5),)),
    "no-augmentation": Method(recipe=(("ranges", STILL),)),
    "rank-4": Method(recipe=(("rank", 4),)),
    "rank-64": Method(recipe=(("rank", 64),)),
    "self-attention-only": Method(layers="attn1"),
    "cross-attention-only": Method(layers="attn2"),
}
#: Parts of the benchmark by their names on the command line, with their methods.
PARTS: dict[str, tuple[str, ...]] = {"causes": tuple(METHODS), "hard": hard.METHODS}

KEYS: dict[str, tuple[str, str, int]] = {
    "edit_accuracy": ("edit right", ".0%", 1),
    "psnr_truth": ("PSNR truth", ".2f", 1),
    "psnr_inside": ("inside", ".2f", 1),
    "psnr_background": ("background", ".2f", 1),
    "psnr_root": ("PSNR root pair", ".2f", 1),
    "loss": ("loss at the end", ".4f", -1),
}


def main(
    clips: int | None = None, methods: Sequence[str] | None = None, json_path: Path | None = None,
    part: str = "causes", *, settings: Settings | None = None, world: World | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Measure, print the table, and write the numbers.

    Args:
        clips: number of edits, ``CLIPS`` if None: held-out ones, local and global in turn, or hard ones.
        methods: slugs of ``METHODS``, all of the part's if None; intervals are against the first.
        json_path: where the numbers go; finished rows lie beside it in NAME.rows.
        part: of ``PARTS``: "causes" changes one thing at a time, "hard" has what the untuned editor fails at.
        settings, world: other than the table's and the committed models.

    Raises:
        ValueError: an unknown method or part, no clip, nothing hard, or rows that were measured with other settings.
    """
    if part not in PARTS:
        raise ValueError(f"part: there is no {part}; there are {', '.join(PARTS)}.")
    count, chosen = count_of(clips, CLIPS), chosen_of(methods or PARTS[part], METHODS)
    settings = settings or Settings()
    used = {"frames": FRAMES, "length": LENGTH, "size": SIZE, "seed": SEED,
            "editor": None if world else config_of("editor")["sha256"], **asdict(settings)}  # fmt: skip
    criterion = {"most_right": hard.MOST_RIGHT, "looked_at": hard.LOOKED_AT, "noise": hard.NOISE}
    with rows_folder(json_path) as rows_path:
        journal = Journal(rows_path, used if part == "causes" else {**used, "hard": criterion})
        world = world or World.load(editor=True)
        found: Iterable[tuple[int, Case, str]] = (
            _heldout(world, count) if part == "causes"
            else hard.hard_cases(world, count, LENGTH, SIZE, SEED, journal, settings.via, settings.wordings, thinned))
        instructions: dict[int, str] = {}
        for number, case, instruction in found:
            instructions[number] = instruction
            _measure(number, case, instruction, chosen, journal, world, settings)
        if not instructions:
            raise ValueError(f"part: none of {hard.LOOKED_AT} edits is hard for this editor.")
        measured, how = journal.report(instructions, chosen)
    known = meta(SEED, len(instructions), settings=journal.settings, part=part, numbers=list(instructions),
                 instructions=list(instructions.values()))  # fmt: skip
    report: dict[str, Any] = {"meta": known | how, "rows": rows(measured, KEYS), "clips": measured}
    print(f"\n{len(instructions)} clips, {FRAMES} frames each; * : paired 95 % interval of the difference to the first "
          "row excludes 0.")  # fmt: skip
    print(table(report["rows"], KEYS))
    return written(report, json_path)


def _heldout(world: World, count: int) -> Iterable[tuple[int, Case, str]]:
    numbers = numbers_of(count)
    for number, case in zip(numbers, world.cases(max(numbers) + 1, LENGTH, SIZE, numbers), strict=True):
        yield number, case, case.edit.instruction


def training_only(backend: Any, layers: str) -> Any:
    """The backend, where a LoRA has no other attentions than these."""
    if not layers:
        return backend
    narrowed = copy(backend)
    narrowed.projections = lambda model: {name: shape for name, shape in backend.projections(model).items()
                                          if f".{layers}." in name}  # fmt: skip
    return narrowed


def _measure(number: int, case: Case, instruction: str, chosen: list[str], journal: Journal, world: World,
             settings: Settings) -> None:  # fmt: skip
    """Run and keep what is not finished."""
    todo = [method for method in chosen if journal.find(number, method) is None]
    if not todo:
        return
    via, positive = settings.via, world.conditioning(instruction)
    parts = (world.backend, world.model, world.vae)
    mask = object_mask(case) if is_local(case.edit) else None
    root = find_root(*parts, case.source.frames, positive, case.empty, choice(world, case), via, mask, SEED + number)
    true_edit = case.truth.frames[[chosen_frame(-1, LENGTH, SEED + number)]]
    few = thinned(case)
    for slug in tqdm(todo, desc=f"bench adaptation, edit {number}", disable=None):
        method, editor, loss = METHODS[slug], world.model, None
        if method.adapts:
            # Adaptations are told apart by all that decides them but by their layers.
            kept = journal.folder / f"adapted{method.layers}"
            tuned = adapt(training_only(world.backend, method.layers), world.model, world.vae, root.source,
                          true_edit if method.true_pair else root.edited, positive, case.empty,
                          method.adaptation(via), cache=kept, preview_every=0)  # fmt: skip
            loss = sum(tuned.losses[-20:]) / len(tuned.losses[-20:])
            lora = {key: value * (method.strength if key.endswith(UP) else 1)
                    for key, value in tuned.weights.tensors.items()}  # fmt: skip
            editor = world.backend.add_lora(world.model, lora)
        recipe = replace(via, adaptation=None, swap=None, blend=None,
                         text_guidance=via.text_guidance if method.guidance is None else method.guidance)  # fmt: skip
        samples = sample_edit(world.backend, editor, few.samples, positive, case.empty, recipe,
                              seed=SEED + number)  # fmt: skip
        frames = world.vae.decode(samples)
        row = {"method": slug, "clip": case.name, "number": number, "kind": case.edit.kind, "instruction": instruction,
               "loss": loss, **_scores(world, few, frames),
               "psnr_root": metrics.psnr(root.edited, true_edit)}  # fmt: skip
        journal.keep(number, slug, row, frames)
        print(f"{case.name}: {slug}: {row['psnr_truth']:.1f} dB to the truth", flush=True)


def thinned(case: Case) -> Case:
    """Its frames that are edited."""
    at = list(range(0, len(case.samples), len(case.samples) // FRAMES))[:FRAMES]
    source, truth = (replace(clip, frames=clip.frames[at], masks=clip.masks[:, at])
                     for clip in (case.source, case.truth))  # fmt: skip
    return replace(case, source=source, truth=truth, samples=case.samples[at])


def _scores(world: World, case: Case, frames: Tensor) -> dict[str, float | None]:
    truth, mask = case.truth.frames, object_mask(case)
    return {
        "edit_accuracy": metrics.edit_accuracy(judged_names(world, case, frames), case.edit.target),
        "psnr_truth": metrics.psnr(frames, truth),
        "psnr_inside": metrics.psnr(frames, truth, mask),
        "psnr_background": metrics.psnr(frames, truth, 1 - mask),
    }
