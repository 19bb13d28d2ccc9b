"""LoRA-Edit's training: a LoRA on an image-to-video model that learns a clip, and what its mask means."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...diffusion.flow import RectifiedFlow
from ...diffusion.training import NoiseTraining
from ..content_hash import content_hash
from ..lora import DOWN, UP, check_shapes, new_lora
from ..preview import training_preview
from ..tuned_weights import FORMAT_VERSION, TunedWeights
from ..tuning import Tuned
from ..tuning_store import TuningStore
from .memory import MemoryPlan, check, plan
from .recipe import MaskLoRARecipe, targeted
from .samples import Sample, check_samples, drawn

if TYPE_CHECKING:
    from ...backends.protocol import Progress, VideoBackend

@dataclass(frozen=True)
class VideoSettings:
    """How the machine is used; the outcome is the same but for rounding.

    Args:
        precision: see ``VideoBackend.video_training``.
        blocks_kept: blocks of the MODEL that stay on the device, -1 for as many as fit.
        preview_every: steps between pictures on the progress bar; 0 for none.
    """

    precision: str = "auto"
    blocks_kept: int = -1
    preview_every: int = 25


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

    Returns:
        ``Tuned``, whose ``weights.tensors`` are the LoRA in the keys of ``methods.lora``.

    Raises:
        TypeError: the MODEL reads no mask.
        ValueError: samples or a LoRA that do not fit.
        MemoryError: it will not fit into the device's memory, told before it begins; or memory ran out.
        FloatingPointError: the loss is no longer finite; the last checkpoint stays.
    """
    recipe, settings = recipe or MaskLoRARecipe(), settings or VideoSettings()
    check_samples(samples)
    check_family(backend, model, samples)
    # Nodes run in inference mode, whose tensors can never take part in a backward pass.
    with torch.inference_mode(False):
        lora = first_lora(backend, model, recipe, start)
        planned = planned_memory(backend, model, samples, recipe.rank, lora, settings)
        content = [content_of(sample) for sample in samples]
        key = content_hash("mask-lora", content, recipe.decisive(), list(lora.values()), settings.precision,
                           backend.fingerprint(model))  # fmt: skip
        store = TuningStore(cache, key)
        if (found := store.finished()) is not None:
            return Tuned(backend.add_video_lora(model, found.tensors), found, list(found.metadata["losses"]), True)
        progress = progress or backend.progress(recipe.training.steps, "mask-aware LoRA")
        try:
            with backend.video_training(model, samples, lora, planned, settings.precision) as view:
                clean = [backend.to_model_space(model, sample.latent.clone()).float() for sample in samples]
                state = _run(view, clean, samples, recipe, settings, store, progress)
        except backend.out_of_memory() as error:
            raise MemoryError("samples: memory ran out although the plan said that it would fit; cut the clip into "
                              "shorter ones (clip_length of Mask Sample) or use a smaller size.") from error
        metadata = {"version": FORMAT_VERSION, "recipe": asdict(recipe), "losses": state["losses"]}
        weights = TunedWeights(state["parameters"], json.loads(json.dumps(metadata)))
        store.finish(weights)
        return Tuned(backend.add_video_lora(model, weights.tensors), weights, state["losses"])


def _run(
    view: Any, clean: list[Tensor], samples: Sequence[Sample], recipe: MaskLoRARecipe, settings: VideoSettings,
    store: TuningStore, progress: Progress,
) -> dict[str, Any]:
    """From the last checkpoint to the last step."""
    base, flow = recipe.training, RectifiedFlow(*recipe.sigmas)
    with torch.enable_grad():
        training = NoiseTraining(
            view.parameters, flow, learning_rate=base.learning_rate, betas=base.betas, weight_decay=base.weight_decay,
            max_grad_norm=base.max_grad_norm, seed=base.seed,
        )  # fmt: skip
        if (state := store.resume()) is not None:
            training.load_state(state)
        device = next(iter(view.parameters.values())).device
        try:
            while len(training.losses) < base.steps:
                number = drawn(samples, len(training.losses), base.seed)
                predict = partial(view.predict_velocity, sample=number)
                loss = training.step(predict, clean[number].to(device))
                done = len(training.losses)
                picture = None
                if settings.preview_every and (done % settings.preview_every == 0 or done == 1):
                    picture = _preview(view, training, flow, clean[0].to(device), base.steps)
                progress.update(done, picture, loss=loss)
                if done % base.checkpoint_every == 0 and done < base.steps:
                    store.keep(training.state())
        except FloatingPointError:
            # What led here is not worth keeping: the last checkpoint stays as it is.
            raise
        except BaseException:
            store.keep(training.state())
            raise
        return training.state()


def _preview(view: Any, training: NoiseTraining, flow: RectifiedFlow, clean: Tensor, steps: int) -> Any:
    """The model's guess of the first sample from half-way noise, beside the losses."""
    sigma = torch.tensor((flow.lowest + flow.highest) / 2)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)).to(clean)
    noisy = flow.add_noise(clean, noise, sigma)
    with torch.no_grad():
        guess = flow.remove_noise(noisy, view.predict_velocity(noisy, sigma, 0).to(clean), sigma)
    return training_preview(guess[0].movedim(1, 0), training.losses, steps)


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
        ValueError: the earlier LoRA has other layers or another rank than the recipe.
    """
    shapes = backend.video_layers(model)
    chosen = {name: shapes[name] for name in targeted(shapes, recipe.targets)}
    fresh = new_lora(chosen, recipe.rank, recipe.training.seed)
    if start is None:
        return fresh
    start = with_alpha_in(start)
    check_shapes(start, shapes)
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
    largest = max(samples, key=lambda sample: math.prod(sample.latent.shape))
    size = backend.video_size(model, largest, settings.precision)
    trained = sum(value.numel() for value in lora.values())
    planned = plan(size, largest.latent.shape, rank, trained, settings.blocks_kept)
    check(planned, size, largest.latent.shape, *backend.video_room(model))
    return planned


def content_of(sample: Sample) -> list[Any]:
    """What of a sample decides the outcome, in plain values and tensors."""
    plain = []
    for embedding, extra in sample.conditioning:
        values = {key: getattr(value, "penultimate_hidden_states", value) for key, value in extra.items()}
        plain.append([embedding, values])
    return [sample.latent, plain, sample.repeats, sample.family]
