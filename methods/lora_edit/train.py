"""LoRA-Edit's training: a LoRA on an image-to-video model that learns a clip, and what its mask means."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import cache as cached
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...diffusion.flow import RectifiedFlow
from ..content_hash import content_hash
from ..lora import DOWN, UP, check_shapes, new_lora
from ..preview import rough_picture
from ..training_loop import TrainingRun
from ..training_store import TrainingStore
from ..tuned_weights import FORMAT_VERSION, TunedWeights
from ..tuning import Tuned
from .memory import MemoryPlan, NetworkSize, check, plan, widened
from .presets import fitted, in_words
from .recipe import MaskLoRARecipe, targeted
from .samples import Sample, check_samples, draw_sample
from .shown_clip import sampled, strip

if TYPE_CHECKING:
    from PIL.Image import Image

    from ...backends.protocol import Progress, VideoBackend, VideoTrainingView
    from ...diffusion.training import Together


@dataclass(frozen=True)
class VideoSettings:
    """How the machine is used; the outcome is the same but for rounding.

    Args:
        precision: see ``VideoBackend.video_training``.
        blocks_kept: blocks of the MODEL that stay on the device, -1 for as many as fit.
        preview_every: seconds between pictures on the progress bar; 0 for none.
        sample_every: steps between short clips that are sampled and shown there; 0 for none. See ``shown_clip``.
        take_interrupted: an interrupted training counts as finished: its checkpoint is the outcome.
        budget: bytes of a card that the training is made to fit into (``presets.fitted``), in the place of
            ``blocks_kept``; None takes what the device has free.
    """

    precision: str = "auto"
    blocks_kept: int = -1
    preview_every: float = 2.0
    sample_every: int = 0
    take_interrupted: bool = False
    budget: int | None = None


def train_mask_lora(
    backend: VideoBackend,
    model: Any,
    samples: Sequence[Sample],
    recipe: MaskLoRARecipe | None = None,
    settings: VideoSettings | None = None,
    *,
    start: Mapping[str, Tensor] | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
    together: Together | None = None,
) -> Tuned:
    """Train a LoRA on masked samples, or find the one of an equal training.

    min over A, B of E || v_theta(x_sigma, sigma; V_condition, M_condition, text) - (eps - x_0) ||^2 with sigma
    uniform: LoRA-Edit's equation 2 in the velocity of a rectified flow, as its authors train. The input MODEL is never
    changed; the one that is returned is a clone with ordinary LoRA patches.

    Args:
        backend: of the MODEL.
        samples: see ``samples.mask_samples`` and ``samples.frame_sample``.
        start: a LoRA to go on from (stage 2), with a fresh optimizer; None begins anew.
        cache: folder for the LoRA and for checkpoints; None keeps nothing.
        progress: the backend's own bar if None.
        together: processes that share out the samples of each step; every one gets the whole LoRA.

    Returns:
        ``Tuned``, whose ``weights.tensors`` are the LoRA in the keys of ``methods.lora``.

    Raises:
        TypeError: the MODEL reads no mask.
        ValueError: samples or a LoRA that do not fit.
        MemoryError: it will not fit into the device's memory, told before it begins; or memory ran out, also with
            every block streamed.
        FloatingPointError: the loss or its gradient is no longer finite; the last checkpoint stays.
    """
    recipe, settings = recipe or MaskLoRARecipe(), settings or VideoSettings()
    check_samples(samples)
    check_family(backend, model, samples)
    # Nodes run in inference mode, whose tensors can never take part in a backward pass.
    with torch.inference_mode(False):
        lora = first_lora(backend, model, recipe, start)
        content = [content_of(sample) for sample in samples]
        key = content_hash("mask-lora", content, recipe.outcome_settings(), list(lora.values()), settings.precision,
                           backend.fingerprint(model))  # fmt: skip
        label = ["mask-aware LoRA"]
        bar = cached(lambda: progress or backend.progress(recipe.training.steps, ", ".join(label)))

        def train() -> TunedWeights:
            plans, chosen = plans_of(backend, model, samples, recipe.rank, lora, settings, together is None)
            label.extend(chosen)
            clean = [backend.to_model_space(model, sample.latent.clone()).float() for sample in samples]
            task = MaskTask(backend, model, samples, clean, lora, recipe, settings.precision, tuple(plans))
            run = TrainingRun(task, recipe.training, backend.out_of_memory(), store, bar(), settings.preview_every,
                              backend.latent_picture(model), task.shown_every(settings.sample_every), recipe.batch,
                              together)
            return weights_of(run.run(), recipe)

        store = TrainingStore(cache, key, "mask-aware LoRA", together)
        if settings.take_interrupted and (state := store.resume()) is not None:
            weights = weights_of(state, recipe)
            return Tuned(backend.add_video_lora(model, weights.tensors), weights, list(state["losses"]), True)
        weights, found = store.found_or_made(train, lora, lambda: bar().update(0))
        return Tuned(backend.add_video_lora(model, weights.tensors), weights, list(weights.metadata["losses"]), found)


def weights_of(state: Mapping[str, Any], recipe: MaskLoRARecipe) -> TunedWeights:
    """The LoRA of ``NoiseTraining.state()``, with its recipe and losses."""
    metadata = {"version": FORMAT_VERSION, "recipe": asdict(recipe), "losses": state["losses"]}
    return TunedWeights(state["parameters"], json.loads(json.dumps(metadata)))


@dataclass(frozen=True)
class MaskTask:
    """``training_loop.Task``: a LoRA on masked samples, one a step.

    Args:
        clean: latents of the samples' targets in the model's scale.
        lora: the values that it starts from.
        plans: of memory, the ones after the first for when it runs out.
    """

    backend: VideoBackend
    model: Any
    samples: Sequence[Sample]
    clean: Sequence[Tensor]
    lora: Mapping[str, Tensor]
    recipe: MaskLoRARecipe
    precision: str
    plans: tuple[MemoryPlan, ...]
    name: str = "mask-aware LoRA"
    smaller: str = "cut the clip into shorter ones (clip_length of Mask Sample) or use a smaller size"
    per_sample: bool = False

    @property
    def less_memory(self) -> tuple[str, ...]:
        return tuple("with every block computed again" if earlier.whole and not later.offloaded
                     and later.kept_weights == earlier.kept_weights else "with no block of the model kept on the device"
                     for earlier, later in pairwise(self.plans))  # fmt: skip

    @property
    def process(self) -> RectifiedFlow:
        return RectifiedFlow(*self.recipe.sigmas)

    def open(self, attempt: int) -> AbstractContextManager[VideoTrainingView]:
        return self.backend.video_training(self.model, self.samples, self.lora, self.plans[attempt], self.precision)

    def batch(self, step: int) -> tuple[Tensor, int]:
        number = draw_sample(self.samples, step, self.recipe.training.seed)
        return self.clean[number], number

    def predict(self, view: VideoTrainingView, noisy: Tensor, level: Tensor, condition: int) -> Tensor:
        return view.predict_velocity(noisy, level, condition)

    def shown_every(self, steps: int) -> Callable[[Any, int], Image | None] | None:
        """For ``TrainingRun.show``: the first sample's clip after every so many steps."""
        picture = self.backend.latent_picture(self.model) or rough_picture

        def show(view: VideoTrainingView, done: int) -> Image | None:
            if done % steps:
                return None
            device = next(iter(view.parameters.values())).device
            with torch.no_grad():
                clip = sampled(lambda x, sigma: self.predict(view, x, sigma.to(device), 0),
                               self.clean[0].to(device), self.process, self.recipe.training.seed)  # fmt: skip
                return strip(clip, picture)

        return show if steps else None


def check_family(backend: VideoBackend, model: Any, samples: Sequence[Sample]) -> None:
    """Raise TypeError for a MODEL without a mask, ValueError for samples of another family of models."""
    family = backend.video_family(model)
    if samples[0].family != family:
        raise ValueError(f"samples: are made for {samples[0].family}, but the model is {family}; set family in the "
                         "sample nodes to it.")


def first_lora(
    backend: VideoBackend, model: Any, recipe: MaskLoRARecipe, start: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """The values that training starts from: new ones, or an earlier LoRA's.

    Raises:
        ValueError: the earlier LoRA has other layers or another rank than the recipe, or is on the MODEL already.
    """
    shapes = backend.video_layers(model)
    chosen = {name: shapes[name] for name in targeted(shapes, recipe.targets)}
    fresh = new_lora(chosen, recipe.rank, recipe.training.seed)
    if start is None:
        return fresh
    start = with_alpha_in(start)
    check_shapes(start, shapes)
    if backend.has_video_lora(model, start):
        raise ValueError("lora: is on the model's weights already, where it would count twice; connect the model from "
                         "before Mask-Aware LoRA, or leave lora open to train another one on top.")
    if start.keys() != fresh.keys() or any(start[key].shape != fresh[key].shape for key in fresh):
        ranks = {value.shape[0] for key, value in start.items() if key.endswith(DOWN)}
        raise ValueError(f"lora: has {len(start) // 2} layers of rank {', '.join(map(str, sorted(ranks)))}, but the "
                         f"recipe trains {len(fresh) // 2} of rank {recipe.rank}; set rank and targets to the LoRA's.")
    return {key: start[key].detach().cpu().float().clone() for key in fresh}


def with_alpha_in(lora: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A LoRA whose alpha keys are multiplied into its B."""
    plain = {key: value.float() for key, value in lora.items() if not key.endswith(".alpha")}
    for key, alpha in lora.items():
        name = key.removesuffix(".alpha")
        if name != key and name + UP in plain:
            plain[name + UP] = plain[name + UP] * (float(alpha) / plain[name + DOWN].shape[0])
    return plain


def planned_memory(
    backend: VideoBackend, model: Any, samples: Sequence[Sample], rank: int, lora: Mapping[str, Tensor],
    settings: VideoSettings,
) -> MemoryPlan:
    """What the largest sample needs.

    Raises:
        MemoryError: more than the device can give; one sentence with the numbers.
    """
    size, latent, trained = _largest(backend, model, samples, lora, settings)
    planned = plan(size, latent, rank, trained, settings.blocks_kept)
    check(planned, size, latent, *backend.video_room(model))
    return planned


def plans_of(
    backend: VideoBackend, model: Any, samples: Sequence[Sample], rank: int, lora: Mapping[str, Tensor],
    settings: VideoSettings, alone: bool = True,
) -> tuple[list[MemoryPlan], list[str]]:
    """The plan of a training, then those for when memory runs out; and what a preset chose, in words.

    Args:
        alone: no other process takes what is free beside this one; then blocks need not be computed again.

    Raises:
        MemoryError: see ``planned_memory``.
    """
    size, latent, trained = _largest(backend, model, samples, lora, settings)
    if settings.budget is not None:
        first = fitted(size, latent, rank, trained, settings.budget, *backend.video_room(model))
        rest = [plan(size, latent, rank, trained, 0, size.blocks - 1)]
        notes = [in_words(first, size, settings.budget)]
    else:
        first, rest, notes = planned_memory(backend, model, samples, rank, lora, settings), [], []
        if settings.blocks_kept != 0:
            rest.append(planned_memory(backend, model, samples, rank, lora, replace(settings, blocks_kept=0)))
        if settings.blocks_kept < 0 and alone:
            first = widened(first, size, latent, rank, trained, backend.video_room(model)[0])
    if first.whole:
        rest.insert(0, replace(plan(size, latent, rank, trained), kept_weights=first.kept_weights))
    return [first, *(later for later in rest if later != first)], notes


def _largest(
    backend: VideoBackend, model: Any, samples: Sequence[Sample], lora: Mapping[str, Tensor], settings: VideoSettings
) -> tuple[NetworkSize, tuple[int, ...], int]:
    """The network's size for the largest sample, that one's latent, and the values that train."""
    largest = max(samples, key=lambda sample: math.prod(sample.latent.shape))
    size = backend.video_size(model, largest, settings.precision, lora)
    return size, tuple(largest.latent.shape), sum(value.numel() for value in lora.values())


def content_of(sample: Sample) -> list[Any]:
    """What of a sample decides the outcome, in plain values and tensors."""
    plain = []
    for embedding, extra in sample.conditioning:
        values = {key: getattr(value, "penultimate_hidden_states", value) for key, value in extra.items()}
        plain.append([embedding, values])
    return [sample.latent, plain, sample.repeats, sample.family]
