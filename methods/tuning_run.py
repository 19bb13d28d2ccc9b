"""One training from its last checkpoint to its last step, with a second try when memory runs out."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ..diffusion.training import NoiseTraining
from .preview import training_preview
from .tuning_store import TuningStore

if TYPE_CHECKING:
    from ..backends.protocol import Backend, Progress, TrainingView
    from .tuning import TuneRecipe

log = logging.getLogger(__name__)


class Task(Protocol):
    """What is trained, on what.

    ``name`` is what messages call it, ``smaller`` what to do where memory does not suffice;
    ``per_sample`` draws a timestep for every sample instead of one for the batch.
    """

    name: str
    smaller: str
    per_sample: bool

    def open(self, checkpointing: bool) -> AbstractContextManager[TrainingView]:
        """The MODEL opened for training, from the same start at every call."""

    def batch(self, step: int) -> tuple[Tensor, Any]:
        """x_0 [samples, channels, height, width], float32, in the model's scale, and its
        CONDITIONING (None: the one that the MODEL is opened with). A function of the step
        alone, so that a resumed training sees what the uninterrupted one would have seen."""


@dataclass
class TuningRun:
    """One training, from its last checkpoint to its last step."""

    backend: Backend
    model: Any
    task: Task
    recipe: TuneRecipe
    store: TuningStore
    progress: Progress
    preview_every: int

    def with_retry(self) -> dict[str, Any]:
        """Train; where memory runs out, go on once more with gradient checkpointing.

        Raises:
            MemoryError: one sentence, memory ran out twice.
        """
        state = self.store.resume()
        kept: list[dict[str, Any]] = []
        try:
            return self.train(state, kept)
        except self.backend.out_of_memory() as error:
            log.warning("%s: memory ran out; trying again with gradient checkpointing.", self.task.name)
            first = error.with_traceback(None)
        # Outside the handler, so that the failed step's activations are freed by now.
        try:
            return self.train(kept[-1] if kept else state, [], checkpointing=True)
        except self.backend.out_of_memory():
            raise MemoryError(
                f"{self.task.name}: memory ran out, also with gradient checkpointing; {self.task.smaller}."
            ) from first

    def train(
        self, state: dict[str, Any] | None, kept: list[dict[str, Any]], checkpointing: bool = False
    ) -> dict[str, Any]:
        """Train from ``state``; whatever interrupts leaves a checkpoint on disk and in ``kept``."""
        recipe, task = self.recipe, self.task
        with task.open(checkpointing) as view, torch.enable_grad():
            training = NoiseTraining(
                view.parameters,
                self.backend.schedule(self.model),
                learning_rate=recipe.learning_rate,
                betas=recipe.betas,
                weight_decay=recipe.weight_decay,
                max_grad_norm=recipe.max_grad_norm,
                seed=recipe.seed,
                per_sample=task.per_sample,
                loss=recipe.loss,
                delta=recipe.delta,
            )
            if state is not None:
                training.load_state(state)
            device = next(iter(view.parameters.values())).device
            try:
                while len(training.losses) < recipe.steps:
                    clean, conditioning = task.batch(len(training.losses))
                    loss = training.step(partial(view.predict_noise, conditioning=conditioning), clean.to(device))
                    done = len(training.losses)
                    self.progress.update(done, self.preview(view, training, device), loss=loss)
                    if done % recipe.checkpoint_every == 0 and done < recipe.steps:
                        self.store.keep(training.state())
            except BaseException:
                kept.append(training.state())
                self.store.keep(kept[-1])
                raise
            return training.state()

    def preview(self, view: TrainingView, training: NoiseTraining, device: torch.device) -> Any:
        """Every few steps: the model's guess of the first batch from half-way noise, beside the losses."""
        done = len(training.losses)
        if not self.preview_every or (done % self.preview_every and done != 1):
            return None
        clean, conditioning = self.task.batch(0)
        schedule, clean = training.schedule, clean.to(device)
        timestep = torch.tensor(len(schedule) // 2)
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(self.recipe.seed)).to(clean)
        noisy = schedule.add_noise(clean, noise, timestep)
        with torch.no_grad():
            predicted = view.predict_noise(noisy, timestep.to(device), conditioning).to(clean)
        return training_preview(schedule.remove_noise(noisy, predicted, timestep), training.losses, self.recipe.steps)
