"""LoRA-Edit, its rivals and its ablations, all from the same weights, noise and edited first frame."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...backends.diffusers import anyv2v
from ...diffusion.schedule import named_sigmas
from ...methods.content_hash import content_hash
from ...methods.lora_edit.choices import TARGETS
from ...methods.lora_edit.condition import condition, generated
from ...methods.lora_edit.recipe import MaskLoRARecipe
from ...methods.lora_edit.samples import frame_sample, mask_samples
from ...methods.lora_edit.train import VideoSettings, train_mask_lora
from ...methods.tune_recipe import TuneRecipe
from ..common.clock import Seconds, timed
from ..common.edited import Edited
from ..common.memory import peak_memory
from ..common.report import write_json

if TYPE_CHECKING:
    from torch import Tensor

    from ...methods.tuning import Tuned
    from ..common.cases import World
    from .cases import VideoCase

MASKED, FIRST = "outside, first frame", "first frame"


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Args:
        keep: what the model is told to keep, in training and in use; see ``choices.KEEPS``.
        trains: a LoRA on the clip.
        targets: of the LoRA.
        short: the clip is cut into the low-cost clips.
        reference: a second stage learns an edited later frame.
        injects: sampling starts from the source's inversion and takes over what AnyV2V does.
    """

    keep: str
    trains: bool = True
    targets: str = TARGETS[0]
    short: bool = False
    reference: bool = False
    injects: bool = False


METHODS: dict[str, Method] = {
    "untuned": Method(FIRST, trains=False),
    "naive-lora": Method(FIRST),
    "untuned-mask": Method(MASKED, trains=False),
    "mask-lora": Method(MASKED),
    "mask-lora-reference": Method(MASKED, reference=True),
    "mask-lora-clips": Method(MASKED, short=True),
    "mask-lora-attention-only": Method(MASKED, targets=TARGETS[1]),
    # Inspired by it: this network has no convolutions, and guidance and steps are the table's.
    "anyv2v": Method(FIRST, trains=False, injects=True),
}
#: Those that are asked of things with two faces.
ON_TURNING = ("naive-lora", "mask-lora", "mask-lora-reference", "anyv2v")


@dataclass(frozen=True)
class Settings:
    """What all methods have in common, so that nothing but the method differs.

    Args:
        steps, learning_rate, rank: of a LoRA's training.
        second: steps of the second stage; most are of one frame and cost a quarter.
        clip_length: frames of a short clip. Training on them has so many more steps as a step is shorter.
        sampling: steps of sampling.
        guidance: over the empty prompt; 1 as the toy video model is sampled.
    """

    steps: int = 150
    learning_rate: float = 1e-3
    rank: int = 16
    second: int = 100
    clip_length: int = 5
    sampling: int = 20
    guidance: float = 1.0

    def recipe(self, method: Method, steps: int) -> MaskLoRARecipe:
        training = TuneRecipe(steps=steps, learning_rate=self.learning_rate, betas=(0.9, 0.99), queries=False)
        return MaskLoRARecipe(training, self.rank, method.targets)


def edit(
    world: World, found: VideoCase, slug: str, settings: Settings, seed: int, kept: Path
) -> tuple[Edited, float]:
    """Run one method on one case.

    Args:
        seed: of the noise, the same for all methods.
        kept: folder of finished trainings, so that the second stage finds the first.

    Returns:
        what it made, and the seconds that it took by ``clock``, trainings found again not counted.
    """
    method = METHODS[slug]
    with peak_memory() as memory, timed() as whole:
        tuned, seconds = trained(world, found, method, settings, kept) if method.trains else (None, None)
        with timed() as sampling:
            frames = world.vae.decode(sampled(world, tuned.model if tuned else world.model, found, method, settings,
                                              seed))  # fmt: skip
    edited = Edited(frames, seconds, sampling.wall, memory.peak_mb, None, [], torch.empty(0))
    return edited, whole.own


def trained(
    world: World, found: VideoCase, method: Method, settings: Settings, kept: Path
) -> tuple[Tuned, float]:
    """The method's LoRA on the clip, and the wall-clock seconds that all of its stages took when they were run."""
    case, video = found.case, found.case.source.frames
    short = settings.clip_length if method.short else 0
    samples = mask_samples(
        world.vae.encode, video, found.boxes, case.source_text, keep=method.keep, clip_length=short)
    steps = settings.steps
    if method.short:
        steps = round(steps * ((len(video) - 1) // 4 + 1) / ((settings.clip_length - 1) // 4 + 1))
    tuned, seconds = _timed(world, samples, settings.recipe(method, steps), kept)
    if not method.reference:
        return tuned, seconds
    at = slice(found.reference, found.reference + 1)
    frame = frame_sample(world.vae.encode, video[at], case.truth.frames[at], found.boxes[at], case.target_text)
    then, more = _timed(world, (*samples, frame), settings.recipe(method, settings.second), kept,
                        dict(tuned.weights.tensors))  # fmt: skip
    return then, seconds + more


def _timed(world: World, samples: tuple, recipe: MaskLoRARecipe, kept: Path, start: Any = None) -> tuple[Tuned, float]:
    """Train, or find what was trained, with the time that it took then."""
    with timed() as seconds:
        tuned = train_mask_lora(world.backend, world.model, samples, recipe, VideoSettings(preview_every=0),
                                start=start, cache=kept)  # fmt: skip
    return tuned, _first_seconds(tuned, seconds, kept)


def _first_seconds(tuned: Tuned, seconds: Seconds, kept: Path) -> float:
    """Of the run that trained it; a LoRA is told by its losses."""
    name = content_hash(tuned.losses)
    assert name is not None  # numbers
    note = kept / f"{name[:16]}.json"
    if tuned.from_cache and note.is_file():
        return json.loads(note.read_text(encoding="utf-8"))["seconds"]
    write_json(note, {"seconds": seconds.wall})
    return seconds.wall


def sampled(world: World, model: Any, found: VideoCase, method: Method, settings: Settings, seed: int) -> Tensor:
    """LATENT samples of the edit, from the edited first frame."""
    case, video = found.case, found.case.source.frames
    generate = generated(video, found.boxes, method.keep)
    given = condition(world.vae.encode, video, generate, first=case.truth.frames[:1])
    noise = torch.randn(given.concat_latent_image.shape, generator=torch.Generator().manual_seed(seed))
    sigmas = named_sigmas(world.backend.schedule(model), "simple", settings.sampling)
    if method.injects:
        return continued(world, model, video, case.truth.frames[:1], case.target_text, case.empty, sigmas,
                         settings.guidance)  # fmt: skip
    start = world.backend.from_model_space(model, noise)
    progress = world.backend.progress(settings.sampling, "sampling")
    return world.backend.sample(model, given.onto(case.target_text), given.onto(case.empty), settings.guidance, start,
                                sigmas, progress, seed=seed)  # fmt: skip


def continued(world: World, model: Any, video: Tensor, first: Tensor, text: Any, empty: Any, sigmas: Tensor,
              guidance: float) -> Tensor:
    """LATENT samples of a clip whose first frame is replaced, by AnyV2V.

    Args:
        video: the source, IMAGE of 4N + 1 frames.
        first: its first frame, edited.
        text, empty: CONDITIONING of the edit's prompt and of "".
    """
    generate = generated(video, None, FIRST)
    before, after = (condition(world.vae.encode, video, generate, first=frame) for frame in (video[:1], first))
    progress = world.backend.progress((anyv2v.FINER + 1) * (len(sigmas) - 1), "AnyV2V")
    return anyv2v.edited(world.backend, model, world.vae.encode(video), sigmas, before.onto(empty), after.onto(text),
                         after.onto(empty), guidance, progress=progress)  # fmt: skip
