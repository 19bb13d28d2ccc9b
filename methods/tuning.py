"""One-shot tuning: train what is attached to a U-Net, and its queries, on one clip."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..diffusion.training import NoiseTraining
from .atomic import write_atomically
from .attachment import Attachment, named_tensors
from .content_hash import content_hash
from .ei2.ffam import check_ratio
from .preview import training_preview
from .registry import build
from .tuned_weights import FORMAT_VERSION, QUERY_PREFIX, TunedWeights, apply_tuned, fill, load_tuned, save_tuned

if TYPE_CHECKING:
    from ..backends.protocol import Backend, Progress, TrainingView

__all__ = ["TuneRecipe", "Tuned", "TunedWeights", "apply_tuned", "load_tuned", "save_tuned", "tune"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TuneRecipe:
    """How to tune; the defaults are EI2's and Tune-A-Video's.

    Args:
        steps: optimizer steps.
        learning_rate, betas, weight_decay: of AdamW.
        max_grad_norm: the joint gradient norm is clipped to it.
        seed: of timesteps and noise.
        checkpoint_every: steps between checkpoints on disk.
        queries: also tune the query projections that the attached methods name.
    """

    steps: int = 500
    learning_rate: float = 3e-5
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-2
    max_grad_norm: float = 1.0
    seed: int = 0
    checkpoint_every: int = 50
    queries: bool = True


PUBLISHED = TuneRecipe()


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
        """The host's LOSS_MAP, never of one element and never constant.

        ComfyUI's LossGraphNode divides by len(loss) - 1 and by max - min. A single step's
        loss is preceded by its double, a constant curve begins a hair higher.
        """
        losses = self.losses or [0.0]
        if len(losses) == 1:
            losses = [2 * losses[0] or 1.0, *losses]
        if max(losses) == min(losses):
            losses = [losses[0] + max(abs(losses[0]), 1.0) * 1e-6, *losses[1:]]
        return {"loss": losses}


def tune(
    backend: Backend,
    model: Any,
    samples: Tensor,
    conditioning: Any,
    recipe: TuneRecipe = PUBLISHED,
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
    preview_every: int = 25,
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
        preview_every: steps between pictures on the progress bar; 0 for none.

    Raises:
        ValueError: NaN in the latent, nothing to train, a ratio beyond the feature map.
        FloatingPointError: the loss is no longer finite.
        MemoryError: memory ran out, also with gradient checkpointing.
    """
    check_samples(samples)
    attachments = backend.attachments(model)
    check_ratio(attachments, *samples.shape[-2:])
    # Nodes run in inference mode, whose tensors can never take part in a backward pass.
    with torch.inference_mode(False):
        base = backend.fingerprint(model)
        methods = [{"method": a.method, "config": dict(a.config)} for a in attachments]
        initial = [named_tensors(a) for a in attachments]
        key = content_hash(samples, conditioning, _decisive(recipe), methods, initial, base)
        store = _Store(cache, key)
        weights = store.finished()
        if weights is not None:
            return Tuned(apply_tuned(backend, model, weights), weights, list(weights.metadata["losses"]), True)
        sites = backend.sites(model)
        owned = [_owned(a, sites) for a in attachments]
        progress = progress or backend.progress(recipe.steps, "tuning")
        run = _Run(backend, model, owned, samples.clone(), conditioning, recipe, store, progress, preview_every)
        state = run.with_retry()
        tensors = _final_tensors(owned, state["parameters"])
        metadata = {
            "version": FORMAT_VERSION,
            "methods": methods,
            "base": base,
            "recipe": asdict(recipe),
            "losses": state["losses"],
        }
        # As it will be read from a file: lists for tuples.
        weights = TunedWeights(tensors, json.loads(json.dumps(metadata)))
        store.finish(weights)
        return Tuned(apply_tuned(backend, model, weights), weights, state["losses"])


def check_samples(samples: Tensor) -> None:
    """Refuse what can not be a clip's latent.

    Raises:
        ValueError: no four dimensions, no frames, or values that are not finite.
    """
    if samples.ndim != 4 or samples.shape[0] == 0:
        raise ValueError(f"latent: expected [frames, channels, height, width], but got {tuple(samples.shape)}.")
    if not torch.isfinite(samples).all():
        raise ValueError("latent: it holds NaN or infinite values; check what the VAE or the step before made.")


def _decisive(recipe: TuneRecipe) -> dict[str, Any]:
    """The part of the recipe that decides the outcome."""
    settings = asdict(recipe)
    del settings["checkpoint_every"]
    return settings


def _owned(attachment: Attachment, sites: Sequence[Any]) -> Attachment:
    """A copy whose modules may be trained: the small modules are copied, never the model."""
    copy = build(attachment.method, sites, attachment.config)
    if attachment.modules is not None:
        fill(copy, named_tensors(attachment))
        copy.modules.requires_grad_(True).train()
    return replace(copy, sites=attachment.sites)


def _final_tensors(owned: Sequence[Attachment], trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Trained values with the spectral normalisation in them, and the query differences."""
    tensors = {name: value for name, value in trained.items() if name.startswith(QUERY_PREFIX)}
    for attachment in owned:
        fill(attachment, {**named_tensors(attachment), **trained})
        for module in (attachment.modules or {}).values():
            if hasattr(module, "bake"):
                module.bake()
        tensors |= {name: value.detach().cpu().float().clone() for name, value in named_tensors(attachment).items()}
    return tensors


class _Store:
    """Finished weights and the checkpoint of one tuning on disk; does nothing without a folder or key."""

    def __init__(self, folder: Path | None, key: str | None) -> None:
        self.weights = folder / f"{key}.safetensors" if folder and key else None
        self.checkpoint = folder / f"{key}.checkpoint" if folder and key else None

    def finished(self) -> TunedWeights | None:
        if self.weights is None or not self.weights.exists():
            return None
        try:
            return load_tuned(self.weights)
        except ValueError as error:
            log.warning("%s It is tuned again.", error)
            return None

    def finish(self, weights: TunedWeights) -> None:
        if self.weights is not None:
            try:
                save_tuned(self.weights, weights)
                self.checkpoint.unlink(missing_ok=True)
            except OSError as error:
                log.warning("%s; the tuning itself is not lost, but will not be found again.", error)

    def resume(self) -> dict[str, Any] | None:
        if self.checkpoint is None or not self.checkpoint.exists():
            return None
        try:
            return torch.load(self.checkpoint, weights_only=True)
        except Exception as error:  # torch.load has no one type for a damaged file
            log.warning("%s: a damaged checkpoint, starting anew (%s).", self.checkpoint.name, error)
            return None

    def keep(self, state: Mapping[str, Any]) -> None:
        if self.checkpoint is not None:
            buffer = io.BytesIO()
            torch.save(dict(state), buffer)
            try:
                write_atomically(self.checkpoint, buffer.getvalue())
            except OSError as error:
                log.warning("%s; training goes on without this checkpoint.", error)


@dataclass
class _Run:
    """One training, from its last checkpoint to its last step."""

    backend: Backend
    model: Any
    attachments: Sequence[Attachment]
    samples: Tensor
    conditioning: Any
    recipe: TuneRecipe
    store: _Store
    progress: Progress
    preview_every: int

    def with_retry(self) -> dict[str, Any]:
        """Train; where memory runs out, go on once more with gradient checkpointing."""
        state = self.store.resume()
        kept: list[dict[str, Any]] = []
        try:
            return self.train(state, kept)
        except self.backend.out_of_memory() as error:
            log.warning("tuning: memory ran out; trying again with gradient checkpointing.")
            first = error.with_traceback(None)
        # Outside the handler, so that the failed step's activations are freed by now.
        try:
            return self.train(kept[-1] if kept else state, [], checkpointing=True)
        except self.backend.out_of_memory():
            raise MemoryError(
                "tuning: memory ran out, also with gradient checkpointing; use fewer frames or a smaller size."
            ) from first

    def train(
        self, state: dict[str, Any] | None, kept: list[dict[str, Any]], checkpointing: bool = False
    ) -> dict[str, Any]:
        """Train from ``state``; whatever interrupts leaves a checkpoint on disk and in ``kept``."""
        recipe, frames = self.recipe, self.samples.shape[0]
        extra = {"checkpointing": True} if checkpointing else {}
        opened = self.backend.training(
            self.model, self.attachments, self.conditioning, frames, queries=recipe.queries, **extra
        )
        with opened as view, torch.enable_grad():
            training = NoiseTraining(
                view.parameters,
                self.backend.schedule(self.model),
                learning_rate=recipe.learning_rate,
                betas=recipe.betas,
                weight_decay=recipe.weight_decay,
                max_grad_norm=recipe.max_grad_norm,
                seed=recipe.seed,
            )
            if state is not None:
                training.load_state(state)
            clean = self.backend.to_model_space(self.model, self.samples).float()
            clean = clean.to(next(iter(view.parameters.values())).device)
            try:
                while len(training.losses) < recipe.steps:
                    loss = training.step(view.predict_noise, clean)
                    done = len(training.losses)
                    self.progress.update(done, self.preview(view, training, clean), loss=loss)
                    if done % recipe.checkpoint_every == 0 and done < recipe.steps:
                        self.store.keep(training.state())
            except BaseException:
                kept.append(training.state())
                self.store.keep(kept[-1])
                raise
            return training.state()

    def preview(self, view: TrainingView, training: NoiseTraining, clean: Tensor) -> Any:
        """Every few steps: the model's guess of the clip from half-way noise, beside the losses."""
        done = len(training.losses)
        if not self.preview_every or (done % self.preview_every and done != 1):
            return None
        schedule = training.schedule
        timestep = torch.tensor(len(schedule) // 2)
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(self.recipe.seed)).to(clean)
        noisy = schedule.add_noise(clean, noise, timestep)
        with torch.no_grad():
            predicted = view.predict_noise(noisy, timestep.to(clean.device)).to(clean)
        return training_preview(schedule.remove_noise(noisy, predicted, timestep), training.losses, self.recipe.steps)
