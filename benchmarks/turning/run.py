"""Why LoRA-Edit's second stage does not recolour what turns: ``python -m steadyedit bench turning``.

The turning clips of `bench lora_edit`, one question a row: does the training's loss on the edited frame fall, can that
frame be made again by itself, does the first frame's condition hold the old colour (and what is there without it,
before and after each stage), does it help to keep the edited frame in the condition or to know its place in time, and
can a LoRA of this size hold the edited clip at all.

*turned* is how far the object's mean colour behind the turn went from the first frame's to the third colour: 0 none of
the way, 1 all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import mse_loss
from tqdm import tqdm

from ...backends.diffusers.video import velocity, with_loras
from ...diffusion.flow import RectifiedFlow
from ...diffusion.schedule import named_sigmas
from ...methods.lora_edit.condition import condition, generated
from ...methods.lora_edit.samples import Sample, frame_sample, mask_samples
from ...methods.lora_edit.train import VideoSettings, train_mask_lora
from ...toyworld.models import config_of
from ...toyworld.world.clips import FRAMES
from ..common.asked import chosen_of, count_of, rows_folder, written
from ..common.cases import World
from ..common.journal import Journal
from ..common.report import meta, rows, table
from ..common.scores import judged_names
from ..lora_edit.cases import TURNING, VideoCase, cases, numbers_of
from ..lora_edit.methods import FIRST, MASKED, METHODS, Settings

if TYPE_CHECKING:
    from torch import Tensor

SIZE, SEED, CLIPS = 128, 0, 4


@dataclass(frozen=True)
class Question:
    """One row.

    Args:
        trained: what the LoRA has seen: nothing, or "clip", then also "frame", "frame in its place" or
            "the edited clip".
        keep: what is kept in use, see ``choices.KEEPS``.
        shown: the edited frame is kept in the condition of its own latent frame.
    """

    trained: tuple[str, ...]
    keep: str = MASKED
    shown: bool = False


QUESTIONS: dict[str, Question] = {
    "untrained": Question((), keep=FIRST),
    "untrained-frame-shown": Question((), keep=FIRST, shown=True),
    "untrained-no-first-frame": Question((), keep="outside"),
    "stage-1": Question(("clip",)),
    "stage-1-no-first-frame": Question(("clip",), keep="outside"),
    "stage-2": Question(("clip", "frame")),
    "stage-2-no-first-frame": Question(("clip", "frame"), keep="outside"),
    "stage-2-frame-shown": Question(("clip", "frame"), shown=True),
    "stage-1-frame-shown": Question(("clip",), shown=True),
    "frame-in-its-place": Question(("clip", "frame in its place")),
    "the-edited-clip": Question(("clip", "the edited clip")),
}

KEYS: dict[str, tuple[str, str, int]] = {
    "turned": ("turned", ".2f", 1),
    "kept_after": ("right behind the turn", ".0%", 1),
    "kept_before": ("right before it", ".0%", 1),
    "loss_frame": ("loss on the frame", ".4f", -1),
    "alone": ("frame by itself, turned", ".2f", 1),
}


def main(
    clips: int | None = None, methods: Sequence[str] | None = None, json_path: Path | None = None, *,
    settings: Settings | None = None, world: World | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Measure, print the table, and write the numbers.

    Args:
        clips: as in `bench lora_edit`, which has half as many turning ones; ``CLIPS`` if None.
        methods: slugs of ``QUESTIONS``, all if None; intervals are against the first.
        json_path: where the numbers go; finished rows lie beside it in NAME.rows.
        settings, world: other than the table's and the committed models.

    Raises:
        ValueError: an unknown question, no clip, or rows that were measured with other settings.
    """
    count, chosen = count_of(clips, CLIPS), chosen_of(methods or QUESTIONS, QUESTIONS)
    settings, numbers = settings or Settings(), numbers_of(count)[TURNING]
    weights = None if world else {name: config_of(name)["sha256"] for name in ("wan", "wan_vae")}
    used = {"frames": FRAMES, "size": SIZE, "seed": SEED, "weights": weights, **asdict(settings)}
    with rows_folder(json_path) as rows_path:
        journal = Journal(rows_path, used)
        world = world or World.load(video=True)
        covered: dict[int, float] = {}
        for number, found in zip(numbers, cases(world, TURNING, numbers, FRAMES, SIZE), strict=True):
            covered[number] = hidden(found)
            for slug in tqdm(chosen, desc=f"bench turning, clip {number}", disable=None):
                if journal.find(number, slug) is None:
                    row, frames = answer(world, found, QUESTIONS[slug], settings, SEED + number, journal.folder)
                    named = {"method": slug, "clip": found.case.name, "number": number}
                    journal.keep(number, slug, {**named, **row}, frames)
                    print(f"{found.case.name}: {slug}: turned {row['turned']:.2f}", flush=True)
        measured, how = journal.report(numbers, chosen)
    report: dict[str, Any] = {"meta": meta(SEED, len(numbers), settings=used, numbers=list(numbers)) | how,
                              "rows": rows(measured, KEYS), "clips": measured, "hidden": covered}  # fmt: skip
    print(f"\n{len(numbers)} turning clips; * : paired 95 % interval of the difference to the first row excludes 0.")
    print(table(report["rows"], KEYS))
    print("of the object behind the turn the mask hides " + ", ".join(f"{share:.1%}" for share in covered.values()))
    return written(report, json_path)


def hidden(found: VideoCase) -> float:
    """The share of the object's pixels behind the turn that the condition does not show."""
    turn = next(i for i, name in enumerate(found.wanted) if name != found.wanted[0])
    generate = generated(found.case.source.frames, found.boxes, MASKED)[turn:]
    thing = found.case.source.masks[0][turn:]
    return float((thing * (generate > 0)).sum() / thing.sum())


def answer(
    world: World, found: VideoCase, question: Question, settings: Settings, seed: int, folder: Path
) -> tuple[dict[str, Any], Tensor]:
    """Train, sample and score one row: its values, and the frames."""
    case, at = found.case, found.reference
    one = frame_sample(world.vae.encode, case.source.frames[at : at + 1], case.truth.frames[at : at + 1],
                       found.boxes[at : at + 1], case.target_text)  # fmt: skip
    model, start = world.model, None
    recipes = {"clip": settings.steps}
    for stage in question.trained:
        recipe = settings.recipe(METHODS["mask-lora"], recipes.get(stage, settings.second))
        tuned = train_mask_lora(world.backend, world.model, _samples(world, found, stage, one), recipe,
                                VideoSettings(preview_every=0), start=start, cache=folder / "trained")  # fmt: skip
        model, start = tuned.model, dict(tuned.weights.tensors)
    frames = _sampled(world, model, found, question, settings, seed)
    alone = _alone(world, model, one, settings, seed)
    turn = next(i for i, name in enumerate(found.wanted) if name != found.wanted[0])
    kept = [float(seen == wanted) for seen, wanted in zip(judged_names(world, case, frames), found.wanted, strict=True)]
    behind = slice(turn, None)
    row = {
        "turned": _turned(found, frames[behind], range(turn, len(frames))),
        "kept_before": sum(kept[:turn]) / turn, "kept_after": sum(kept[behind]) / len(kept[behind]),
        "loss_frame": _loss(world, model, one), "alone": _turned(found, alone, range(at, at + 1)),
    }  # fmt: skip
    return row, frames


def _samples(world: World, found: VideoCase, stage: str, one: Sample) -> tuple[Sample, ...]:
    """What a stage trains on."""
    case, video = found.case, found.case.source.frames
    clip = mask_samples(world.vae.encode, video, found.boxes, case.source_text, keep=MASKED)
    if stage == "clip":
        return clip
    if stage == "frame":
        return (*clip, one)
    if stage == "the edited clip":
        return (replace(_edited_clip(world, found, MASKED), repeats=one.repeats), *clip)
    # A still of the edited frame as long as the clip, without a first frame: its place is every latent frame.
    at, count = slice(found.reference, found.reference + 1), len(video)
    original, edited, boxes = (clip[at].expand(count, *clip.shape[1:])
                               for clip in (video, case.truth.frames, found.boxes))  # fmt: skip
    given = condition(world.vae.encode, original, generated(original, boxes, "outside"))
    still = Sample(world.vae.encode(edited).float(), given.onto(case.target_text), one.repeats, "still")
    return (*clip, still)


def _edited_clip(world: World, found: VideoCase, keep: str) -> Sample:
    """The truth as a sample: what no user has."""
    case = found.case
    generate = generated(case.source.frames, found.boxes, keep)
    given = condition(world.vae.encode, case.source.frames, generate, first=case.truth.frames[:1])
    return Sample(world.vae.encode(case.truth.frames).float(), given.onto(case.target_text), 1, "edited clip")


def _sampled(world: World, model: Any, found: VideoCase, question: Question, settings: Settings, seed: int) -> Tensor:
    """Frames of the edit, as ``lora_edit.methods.sampled``, with the edited frame in the condition where it is
    shown."""
    case, video = found.case, found.case.source.frames
    generate = generated(video, found.boxes, question.keep)
    if question.shown:
        at = found.reference
        video = torch.cat([video[:at], case.truth.frames[at : at + 1], video[at + 1 :]])
        generate[at] = 0
    first = None if question.keep == "outside" else case.truth.frames[:1]
    given = condition(world.vae.encode, video, generate, first=first)
    return _decoded(world, model, given.onto(case.target_text), settings, seed)


def _alone(world: World, model: Any, one: Sample, settings: Settings, seed: int) -> Tensor:
    """The edited frame made again from its own condition."""
    return _decoded(world, model, one.conditioning, settings, seed)


def _decoded(world: World, model: Any, conditioning: list, settings: Settings, seed: int) -> Tensor:
    shape = conditioning[0][1]["concat_latent_image"].shape
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    sigmas = named_sigmas(world.backend.schedule(model), "simple", settings.sampling)
    bar = world.backend.progress(settings.sampling, "sampling")
    samples = world.backend.sample(model, conditioning, None, 1.0, world.backend.from_model_space(model, noise), sigmas,
                                   bar, seed=seed)  # fmt: skip
    return world.vae.decode(samples)


@torch.no_grad()
def _loss(world: World, model: Any, one: Sample, draws: int = 16) -> float:
    """Of the edited frame, at the same noise and levels for all rows."""
    process, clean = RectifiedFlow(), world.backend.to_model_space(model, one.latent)
    generator, total = torch.Generator().manual_seed(SEED), 0.0
    with with_loras(model, model.loras):
        for draw in range(draws):
            noise, sigma = torch.randn(clean.shape, generator=generator), torch.tensor((draw + 0.5) / draws)
            found = velocity(model, process.add_noise(clean, noise, sigma), sigma, one.conditioning)
            total += float(mse_loss(found, process.target(clean, noise)))
    return total / draws


def _turned(found: VideoCase, frames: Tensor, numbers: Sequence[int]) -> float:
    """The mean colour of the object on its way from the first frame's to the true one's, by projection."""
    masks, truth = found.case.truth.masks[0], found.case.truth.frames
    wanted, first = _colour(truth[list(numbers)], masks[list(numbers)]), _colour(truth[:1], masks[:1])
    way = wanted - first
    return float((_colour(frames, masks[list(numbers)]) - first) @ way / (way @ way))


def _colour(frames: Tensor, masks: Tensor) -> Tensor:
    return (frames * masks[..., None]).sum((0, 1, 2)) / masks.sum()
