"""One-shot tuning: train what is attached to a U-Net, and its queries, on one clip."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from functools import cache as cached
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..diffusion.training import check_loss
from .attachment import Attachment, frozen_copy, named_tensors
from .content_hash import content_hash
from .finite import check_finite
from .registry import build_on, check_size
from .training_loop import TrainingRun
from .training_store import TrainingStore
from .tune_recipe import PUBLISHED, TuneRecipe, outcome_settings
from .tuned_weights import (
    FORMAT_VERSION,
    QUERY_PREFIX,
    TunedWeights,
    apply_tuned,
    architecture,
    base_name,
    load_parameters,
    load_tuned,
    save_tuned,
)  # fmt: skip

if TYPE_CHECKING:
    from ..backends.protocol import Progress, TrainingView, Tuning
    from ..diffusion.schedule import DiscreteSchedule

__all__ = ["TuneRecipe", "Tuned", "TunedWeights", "apply_tuned", "load_tuned", "save_tuned", "tune"]


@dataclass(frozen=True, eq=False)
class Tuned:
    """What a tuning gives.

    Args:
        model: a clone of the input MODEL with the tuned weights attached.
        weights: the same weights, to be saved.
        losses: one number per step. A host that divides by their range (ComfyUI's
            LossGraphNode) needs two different ones at least: see ``loss_map``.
        from_cache: the weights were found finished and nothing was trained.
    """

    model: Any
    weights: TunedWeights
    losses: list[float] = field(default_factory=list)
    from_cache: bool = False

    @property
    def loss_map(self) -> dict[str, list[float]]:
        """The host's LOSS_MAP."""
        return loss_map(self.losses)


def loss_map(losses: Sequence[float]) -> dict[str, list[float]]:
    """The host's LOSS_MAP, never of one element and never constant.

    ComfyUI's LossGraphNode divides by len(loss) - 1 and by max - min. A single step's
    loss is preceded by its double, a constant curve begins a hair higher.
    """
    losses = list(losses) or [0.0]
    if len(losses) == 1:
        losses = [2 * losses[0] or 1.0, *losses]
    if max(losses) == min(losses):
        losses = [losses[0] + max(abs(losses[0]), 1.0) * 1e-6, *losses[1:]]
    return {"loss": losses}


@dataclass(frozen=True)
class ClipTask:
    """``training_loop.Task``: attachments and queries on one clip, all its frames at every step."""

    backend: Tuning
    model: Any
    attachments: Sequence[Attachment]
    clean: Tensor
    conditioning: Any
    queries: bool
    name: str = "tuning"
    smaller: str = "use fewer frames or a smaller size"
    less_memory: tuple[str, ...] = ("with gradient checkpointing",)
    per_sample: bool = False

    @property
    def process(self) -> DiscreteSchedule:
        return self.backend.schedule(self.model)

    def open(self, attempt: int) -> AbstractContextManager[TrainingView]:
        return self.backend.training(
            self.model, self.attachments, self.conditioning, len(self.clean), self.queries, attempt > 0
        )

    def batch(self, step: int) -> tuple[Tensor, Any]:
        return self.clean, None

    def predict(self, view: TrainingView, noisy: Tensor, level: Tensor, condition: Any) -> Tensor:
        return view.predict_noise(noisy, level, condition)


def tune(
    backend: Tuning,
    model: Any,
    samples: Tensor,
    conditioning: Any,
    recipe: TuneRecipe = PUBLISHED,
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
    preview_every: float = 2.0,
    only: Collection[str] | None = None,
) -> Tuned:
    """Tune the attached methods on one clip, or find the weights of an equal tuning.

    The input MODEL is never changed. Weights and checkpoints lie in ``cache`` under a hash
    of clip, conditioning, recipe, methods and base model: an equal call finds the finished
    weights, an interrupted one goes on where it stopped, bit for bit.

    Args:
        backend: of the MODEL.
        model: MODEL with methods attached.
        samples: LATENT samples [frames, channels, height, width].
        conditioning: the CONDITIONING that describes the clip.
        cache: folder for weights and checkpoints; None keeps nothing.
        progress: the backend's own bar if None.
        preview_every: seconds between pictures on the progress bar; 0 for none.
        only: the attached methods that train. The others stay as they are, at work but frozen,
            no queries are tuned, and the weights hold what trained alone: they fit every model
            of the architecture, whatever lies below them. None trains all.

    Raises:
        ValueError: NaN in the latent, nothing to train, a ratio beyond the feature map, an
            unknown loss, or a method in ``only`` that is not attached.
        FloatingPointError: the loss is no longer finite.
        MemoryError: memory ran out, also with gradient checkpointing.
    """
    check_samples(samples)
    check_loss(recipe.loss, recipe.delta)
    attachments = backend.attachments(model)
    check_size(attachments, *samples.shape[-2:])
    if absent := sorted(set(only or ()) - {a.method for a in attachments}):
        raise ValueError(f"model: {absent[0]} is to be trained, but is not attached; attach it first.")
    trains = [only is None or a.method in only for a in attachments]
    if idle := [a.method for a in compress(attachments, trains) if a.config.get("strength") == 0]:
        raise ValueError(f"model: {idle[0]} has strength 0, so that nothing of it can be trained; attach it at 1.")
    # Nodes run in inference mode, whose tensors can never take part in a backward pass.
    with torch.inference_mode(False):
        base = base_name(backend, model, only)
        methods = [{"method": a.method, "config": dict(a.config)} for a in compress(attachments, trains)]
        initial = [named_tensors(a) for a in compress(attachments, trains)]
        key = content_hash(samples, conditioning, outcome_settings(recipe), methods, initial, base, sorted(only or ()))
        expected = {name: tensor for tensors in initial for name, tensor in tensors.items()}
        bar = cached(lambda: progress or backend.progress(recipe.steps, "tuning"))

        def train() -> TunedWeights:
            used = [_owned(backend, model, a) if train else frozen_copy(a) for a, train in zip(attachments, trains)]
            clean = backend.to_model_space(model, samples.clone()).float()
            task = ClipTask(backend, model, used, clean, conditioning, recipe.queries and only is None)
            state = TrainingRun(task, recipe, backend.out_of_memory(), store, bar(), preview_every,
                                backend.latent_picture(model)).run()
            tensors = _final_tensors(list(compress(used, trains)), state["parameters"])
            metadata = {"version": FORMAT_VERSION, "methods": methods, "base": base, "recipe": asdict(recipe),
                        "losses": state["losses"]}  # fmt: skip
            if only is not None:
                metadata["architecture"] = architecture(backend, model)
            # As it will be read from a file: lists for tuples.
            return TunedWeights(tensors, json.loads(json.dumps(metadata)))

        store = TrainingStore(cache, key)
        weights, found = store.found_or_made(train, expected, lambda: bar().update(0))
        return Tuned(apply_tuned(backend, model, weights), weights, list(weights.metadata["losses"]), found)


def check_samples(samples: Tensor) -> None:
    """Refuse what can not be a clip's latent.

    Raises:
        ValueError: no four dimensions, no frames, or values that are not finite.
    """
    if samples.ndim != 4 or samples.shape[0] == 0:
        raise ValueError(f"latent: expected [frames, channels, height, width], but got {tuple(samples.shape)}.")
    check_finite("latent", samples)


def _owned(backend: Tuning, model: Any, attachment: Attachment) -> Attachment:
    """A copy whose modules may be trained: the small modules are copied, never the model."""
    copy = build_on(backend, model, attachment.method, attachment.config)
    load_parameters(copy, named_tensors(attachment))
    for tree in copy.trees:
        tree.requires_grad_(True).train()
    return replace(copy, sites=attachment.sites)


def _final_tensors(owned: Sequence[Attachment], trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Trained values with the spectral normalisation in them, and the query differences."""
    tensors = {name: value for name, value in trained.items() if name.startswith(QUERY_PREFIX)}
    for attachment in owned:
        load_parameters(attachment, {**named_tensors(attachment), **trained})
        for module in (module for tree in attachment.trees for module in tree.values()):
            if hasattr(module, "bake"):
                module.bake()
        tensors |= {name: value.detach().cpu().float().clone() for name, value in named_tensors(attachment).items()}
    return tensors
