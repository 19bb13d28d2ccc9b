"""One training from its last checkpoint to its last step, with a second try when memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..diffusion.training import NoiseTraining
from .attachment import Attachment
from .preview import training_preview
from .tuning_store import TuningStore

if TYPE_CHECKING:
    from ..backends.protocol import Backend, Progress, TrainingView
    from .tuning import TuneRecipe

log = logging.getLogger(__name__)


@dataclass
class TuningRun:
    """One training, from its last checkpoint to its last step."""

    backend: Backend
    model: Any
    attachments: Sequence[Attachment]
    samples: Tensor
    conditioning: Any
    recipe: TuneRecipe
    store: TuningStore
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
