"""The one training loop: from the last checkpoint to the last step, with less memory where memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ..diffusion.training import NoiseTraining, Together
from .out_of_memory import ran_out
from .preview import middle_frame, rough_picture, training_preview
from .training_store import TrainingStore

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..backends.protocol import Progress
    from ..diffusion.flow import RectifiedFlow
    from ..diffusion.schedule import DiscreteSchedule
    from .tune_recipe import TuneRecipe

log = logging.getLogger(__name__)
#: Between two samples lies so many times the time that the last one took.
SHARE = 9


class Task(Protocol):
    """What is trained, on what.

    ``name`` is what messages call it; ``per_sample`` draws a noise level for every sample instead of one for the batch.
    ``less_memory`` says, for every further try after memory ran out, what is done to need less of it ("with ..."), and
    ``smaller`` what the user can do where none of that suffices.
    """

    @property
    def name(self) -> str: ...

    @property
    def smaller(self) -> str: ...

    @property
    def less_memory(self) -> tuple[str, ...]: ...

    @property
    def per_sample(self) -> bool: ...

    @property
    def process(self) -> DiscreteSchedule | RectifiedFlow:
        """Where noise levels are drawn from, and what the network predicts."""

    def open(self, attempt: int) -> AbstractContextManager[Any]:
        """The MODEL opened for training, with its ``parameters``, from the same start at every call; the attempts
        after 0 need less memory, see ``less_memory``."""

    def batch(self, step: int) -> tuple[Tensor, Any]:
        """x_0 [samples, channels, ...], float32, in the model's scale, and its condition as ``predict`` takes it.
        A function of the step alone, so that a resumed training sees what the uninterrupted one would have seen."""

    def predict(self, view: Any, noisy: Tensor, level: Tensor, condition: Any) -> Tensor:
        """The network's prediction of ``process.target``, differentiable."""


@dataclass
class TrainingRun:
    """One training.

    Whatever interrupts it leaves a checkpoint of the last whole step, but for a loss or gradient that is not finite:
    then the last checkpoint stays as it is, since what came after it led there.

    Args:
        out_of_memory: see ``Host.out_of_memory``.
        store: where checkpoints go.
        preview_every: seconds between pictures on the progress bar; 0 for none.
        picture: draws one frame's latent, see ``Host.latent_picture``.
        show: of the opened model and the steps done: a picture that stays above the losses until the next one, or None.
        batch: samples, as ``Task.batch`` gives them, in a step.
        together: processes that share them out; see ``NoiseTraining.step_of``.
    """

    task: Task
    recipe: TuneRecipe
    out_of_memory: tuple[type[BaseException], ...]
    store: TrainingStore
    progress: Progress
    preview_every: float
    picture: Callable[[Tensor], Image] | None = None
    show: Callable[[Any, int], Image | None] | None = None
    batch: int = 1
    together: Together | None = None
    _last: dict[str, Any] | None = field(default=None, init=False)
    _sample: Image | None = field(default=None, init=False)
    _shown: float = field(default=0.0, init=False)
    _sampled: float = field(default=0.0, init=False)
    _cost: float = field(default=0.0, init=False)
    _stays: bool = field(default=False, init=False)

    def run(self) -> dict[str, Any]:
        """``NoiseTraining.state()`` after the last step.

        Raises:
            MemoryError: one sentence, memory ran out in every attempt.
            FloatingPointError: the loss or its gradient is no longer finite.
        """
        task, failure = self.task, None
        self._last = self._resumed()
        # Several processes would each try again by themselves, and wait for each other.
        for attempt in range(len(task.less_memory) + 1 if self.together is None else 1):
            if failure is not None:
                log.warning("%s: memory ran out; trying again %s.", task.name, task.less_memory[attempt - 1])
            try:
                return self._train(attempt)
            except BaseException as error:
                if not ran_out(error, self.out_of_memory):
                    raise
                # Without its frames, so that the failed step's activations are freed by now.
                failure = error.with_traceback(None)
        also = f", also {task.less_memory[-1]}" if task.less_memory else ""
        raise MemoryError(f"{task.name}: memory ran out{also}; {task.smaller}.") from failure

    def _resumed(self) -> dict[str, Any] | None:
        """The last checkpoint, which all processes must have read alike."""
        last = self.store.resume()
        done = 0 if last is None else len(last["losses"])
        if self.together is not None and (first := self.together.first(done)) != done:
            raise ValueError(f"{self.task.name}: one process goes on from step {first} and another from step {done}; "
                             "let all of them read one folder of checkpoints.")
        return last

    def _train(self, attempt: int) -> dict[str, Any]:
        recipe, task = self.recipe, self.task
        with task.open(attempt) as view, torch.enable_grad():
            training = NoiseTraining(
                view.parameters,
                task.process,
                learning_rate=recipe.learning_rate,
                betas=recipe.betas,
                weight_decay=recipe.weight_decay,
                max_grad_norm=recipe.max_grad_norm,
                seed=recipe.seed,
                per_sample=task.per_sample,
                loss=recipe.loss,
                delta=recipe.delta,
            )
            if self._last is not None:
                training.load_state(self._last)
            try:
                self._steps(view, training)
            except FloatingPointError:
                raise
            except BaseException:
                self._last = training.state()
                if training.losses:  # before the first step there is nothing to go on from
                    self.store.keep(self._last)
                raise
            return training.state()

    def _steps(self, view: Any, training: NoiseTraining) -> None:
        recipe, task = self.recipe, self.task
        device = next(iter(view.parameters.values())).device
        while (done := len(training.losses)) < recipe.steps:
            samples = []
            for clean, condition in (task.batch(done * self.batch + number) for number in range(self.batch)):

                def predict(noisy: Tensor, level: Tensor, condition: Any = condition) -> Tensor:
                    return task.predict(view, noisy, level, condition)

                samples.append((predict, clean.to(device)))
            loss = training.step_of(samples, self.together)
            done += 1
            self.progress.update(done, self._preview(view, training, device), loss=loss)
            if done % recipe.checkpoint_every == 0 and done < recipe.steps:
                self.store.keep(training.state())

    def _preview(self, view: Any, training: NoiseTraining, device: torch.device) -> Any:
        """Every few seconds, and at the first and last step: a sample above the losses."""
        done, now = len(training.losses), monotonic()
        shown = None if self.show is None else self.show(view, done)
        if shown is None and (
            not self.preview_every or (1 < done < self.recipe.steps and now - self._shown < self.preview_every)
        ):
            return None
        if shown is not None:
            self._sample, self._stays = shown, True
        # A large model needs seconds for a sample: then an older one stands above the newest losses.
        elif self._sample is None or (
            not self._stays and now - self._sampled >= max(self.preview_every, self._cost * SHARE)
        ):
            self._sample = self._draw(view, device)
            self._sampled = monotonic()
            self._cost = self._sampled - now
        self._shown = monotonic()
        return training_preview(self._sample, training.losses, self.recipe.steps)

    def _draw(self, view: Any, device: torch.device) -> Image:
        """The model's guess of the first batch's middle frame from half-way noise, in the host's colours."""
        clean, condition = self.task.batch(0)
        process, clean = self.task.process, clean.to(device)
        level = process.middle()
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(self.recipe.seed)).to(clean)
        noisy = process.add_noise(clean, noise, level)
        with torch.no_grad():
            predicted = self.task.predict(view, noisy, level.to(device), condition).to(clean)
            frame = middle_frame(process.remove_noise(noisy, predicted, level))
            return (self.picture or rough_picture)(frame)
