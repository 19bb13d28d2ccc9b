"""Null-text inversion (Mokady et al., 2022, algorithm 1).

The clip is inverted under its own prompt without guidance, z*_T ... z*_0. From z_T = z*_T on, each step of DDIM is
taken with guidance, and the unconditional text is optimised so that the step lands on the inversion's own latent:

    min over O_t of || z*_{t-1} - z_{t-1}(z_t, O_t, C) ||^2,    by a few steps of Adam from O_{t+1}.

All z are in the variance-preserving scale, where the authors' bounds hold.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..attachment import frozen_copy
from ..content_hash import content_hash
from ..out_of_memory import ran_out
from ..preview import middle_frame, rough_picture, training_preview
from ..progress import Part
from ..stored import locked, set_aside, store, stored
from ..tuned_weights import base_name
from ..tuning import check_samples
from .per_step import per_step_conditioning

if TYPE_CHECKING:
    from ...backends.protocol import Editing, Progress, TrainingView

log = logging.getLogger(__name__)

#: Steps for which the authors chose their rates: these fall to a half, and the bound rises by so much, over a run.
STEPS, RISE = 50, 1e-3
#: Steps between two checkpoints, and seconds between two previews.
CHECKPOINT, PREVIEW = 5, 2.0


@dataclass(frozen=True)
class NullTextRecipe:
    """How the texts are optimised; the defaults are the authors'.

    Args:
        guidance: of the sampling that is to give the clip back.
        inner_steps: of Adam in each step, at most.
        learning_rate: of the first step; it falls to a half in the last.
        stop: mean square error from which on a step is good enough in the first step; it rises by 1e-3.
        per_frame: a text for every frame, each as for a picture alone; or one for all.

    Raises:
        ValueError: a setting outside of its range.
    """

    guidance: float = 7.5
    inner_steps: int = 10
    learning_rate: float = 1e-2
    stop: float = 1e-5
    per_frame: bool = True

    def __post_init__(self) -> None:
        if self.guidance == 1:
            raise ValueError("guidance: at 1 the sampler leaves the unconditional text out; use that of the sampling, "
                             "such as 7.5.")
        if self.inner_steps < 1:
            raise ValueError(f"inner_steps: expected 1 or more, but got {self.inner_steps}.")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate: expected a number above 0, but got {self.learning_rate}.")

    def rate(self, step: int, steps: int) -> float:
        """1e-2 (1 - i / 100) for 50 steps."""
        return self.learning_rate * (1 - step / (2 * steps))

    def good_enough(self, step: int, steps: int) -> float:
        """1e-5 + 2e-5 i for 50 steps."""
        return self.stop + RISE * step / steps


@dataclass(frozen=True, eq=False)
class NullText:
    """What the inversion gives.

    Args:
        trajectory: x at every noise level, ascending, LATENT scale, of the plain inversion under the prompt.
        sigmas: descending, for the sampler.
        negative: CONDITIONING with a text for every step.
        losses: the mean square error that each step ended with.
        from_cache: it was found and nothing was optimised.
    """

    trajectory: list[Tensor]
    sigmas: Tensor
    negative: Any
    losses: list[float]
    from_cache: bool = False


def invert(
    backend: Editing,
    model: Any,
    samples: Tensor,
    conditioning: Any,
    empty: Any,
    steps: int = STEPS,
    recipe: NullTextRecipe | None = None,
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
    refinement: int = 0,
) -> NullText:
    """Invert a clip so that sampling with guidance gives it back. The MODEL is never changed.

    The texts lie in ``cache`` under a hash of all that decides them; an interrupted run goes on after its last step.

    Args:
        model: MODEL, with whatever is attached at work.
        samples: LATENT samples [frames, channels, height, width].
        conditioning: CONDITIONING of what the clip shows.
        empty: CONDITIONING that the texts begin as, that of "".
        steps: of inversion and sampling.
        cache: folder; None keeps nothing.
        progress: the backend's own bar if None.
        refinement: of the inversion.

    Raises:
        ValueError: NaN in the latent, or a CONDITIONING of several entries.
        FloatingPointError: the error is no longer finite.
        MemoryError: memory ran out, also with gradient checkpointing.
    """
    recipe = recipe or NullTextRecipe()
    check_samples(samples)
    for name, given in (("conditioning", conditioning), ("negative", empty)):
        if len(given) != 1:
            raise ValueError(f"{name}: holds {len(given)} conditions, but null-text inversion takes one; give it one "
                             "prompt.")
    schedule = backend.schedule(model)
    sigmas = schedule.ddim_sigmas(steps)
    count = len(sigmas) - 1
    with torch.inference_mode(False):
        bar = progress or backend.progress(count * (1 + recipe.inner_steps), "null-text inversion")
        path = backend.invert(model, conditioning, samples, sigmas.flip(0), refinement, bar)
        base = base_name(backend, model, [])
        key = content_hash(samples, conditioning, empty, steps, refinement, asdict(recipe), base)
        kept = Kept(None if cache is None or key is None else Path(cache) / f"{key}.null_text", key)
        search = Search(backend, model, path, conditioning, empty, sigmas, recipe, kept, Part(bar, count))
        with kept.alone(lambda: bar.update(count)):
            found = kept.read()
            done = found is not None and len(found.losses) == count
            state = found if done and found is not None else search.run(found)
        timesteps = schedule.timestep(sigmas[:-1]).tolist()
        negative = per_step_conditioning(list(state.texts), timesteps, empty[0][1])
        return NullText(path, sigmas, negative, state.losses, done)


@dataclass
class State:
    """How far a search is: a text [1 or frames, tokens, channels] and an error for every step that is done, and z after
    the last of them."""

    texts: list[Tensor] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    z: Tensor | None = None


@dataclass(frozen=True)
class Kept:
    """The state on disk; nothing without a path."""

    path: Path | None
    key: str | None

    def alone(self, wait: Callable[[], None]) -> Any:
        """One process searches at a time; another one waits and takes its result."""
        if self.path is None:
            return nullcontext()
        return locked(self.path.with_suffix(".lock"), "null-text inversion", wait)

    def read(self) -> State | None:
        if self.path is None or (found := stored(self.path, self._description())) is None:
            return None
        tensors, losses = found
        if not isinstance(losses, list) or len(tensors.get("texts", ())) != len(losses) or "z" not in tensors:
            set_aside(self.path, f"{self.path.name}: is no null-text inversion.")
            return None
        return State(list(tensors["texts"]), losses, tensors["z"])

    def write(self, state: State) -> None:
        """Where that fails, the search goes on without it."""
        if self.path is None or state.z is None or not state.losses:
            return
        try:
            store(self.path, {"texts": torch.stack(state.texts), "z": state.z.cpu()}, self._description(), state.losses)
        except (OSError, ValueError) as error:
            log.warning("%s The null-text inversion goes on without this checkpoint.", error)

    def _description(self) -> dict[str, Any]:
        return {"kind": "null-text inversion", "version": 1, "of": self.key}


@dataclass
class Search:
    """The optimisation of one clip's texts.

    Args:
        path: x at every noise level, ascending, LATENT scale.
        sigmas: descending.
        progress: in inner steps.
    """

    backend: Editing
    model: Any
    path: Sequence[Tensor]
    conditioning: Any
    empty: Any
    sigmas: Tensor
    recipe: NullTextRecipe
    kept: Kept
    progress: Progress
    _shown: float = field(default=0.0, init=False)

    def run(self, state: State | None) -> State:
        """All steps, from those that are done; once more with gradient checkpointing where memory runs out."""
        state, failure = state or State(), None
        # What takes part in the forward pass alone.
        frozen = [frozen_copy(a) for a in self.backend.attachments(self.model)]
        for recomputes in (False, True):
            if failure is not None:
                log.warning("null-text inversion: memory ran out; trying again with gradient checkpointing.")
            opened = self.backend.training(self.model, frozen, self.conditioning, len(self.path[0]), False, recomputes)
            try:
                with opened as view, torch.enable_grad():
                    self._steps(view, state)
                self.kept.write(state)
                return state
            except BaseException as error:
                self.kept.write(state)
                if not ran_out(error, self.backend.out_of_memory()):
                    raise
                failure = error.with_traceback(None)
        raise MemoryError("latent: memory ran out in null-text inversion, also with gradient checkpointing; use fewer "
                          "frames or a smaller size.") from failure

    def _steps(self, view: TrainingView, state: State) -> None:
        targets = [z.float() / math.sqrt(1 + float(sigma) ** 2) for z, sigma in zip(
            (self.backend.to_model_space(self.model, x.clone()) for x in self.path), self.sigmas.flip(0), strict=True)]
        targets.reverse()
        text = self.empty[0][0].clone().float()
        if self.recipe.per_frame:
            text = text.expand(len(targets[0]), -1, -1).clone()
        steps = len(self.sigmas) - 1
        text = state.texts[-1].clone().to(text) if state.texts else text
        z = targets[0] if state.z is None else state.z.to(targets[0])
        for step in range(len(state.losses), steps):
            text, z, loss = self._step(view, step, text, z, targets[step + 1], state.losses)
            state.texts.append(text.cpu().clone())
            state.losses.append(loss)
            state.z = z
            if len(state.losses) % CHECKPOINT == 0 and len(state.losses) < steps:
                self.kept.write(state)

    def _step(self, view: TrainingView, step: int, text: Tensor, z: Tensor, target: Tensor, losses: Sequence[float]
              ) -> tuple[Tensor, Tensor, float]:
        """One step of the sampler: its text, z after it, and its error."""
        recipe, steps = self.recipe, len(self.sigmas) - 1
        above, below = (float(sigma) for sigma in self.sigmas[step : step + 2])
        level = self.backend.schedule(self.model).timestep(self.sigmas[step])
        bound = recipe.good_enough(step, steps)

        def noise(of: Tensor | None) -> Tensor:
            prompt = self.conditioning if of is None else [[of, self.empty[0][1]]]
            return view.predict_noise(z, level, prompt).to(z)

        def landed(unconditional: Tensor) -> Tensor:
            """z after the step: DDIM, in the variance-preserving scale."""
            guided = unconditional + recipe.guidance * (conditional - unconditional)
            return (z * math.sqrt(1 + above**2) + (below - above) * guided) / math.sqrt(1 + below**2)

        def error(reached: Tensor) -> Tensor:
            """Of each frame by itself where each has its text; else of the clip."""
            squares = (reached - target) ** 2
            return squares.mean((1, 2, 3)) if recipe.per_frame else squares.mean().reshape(1)

        with torch.no_grad():
            conditional = noise(None)
        text = text.detach().clone().requires_grad_(True)
        adam = torch.optim.Adam([text], lr=recipe.rate(step, steps))
        left = torch.ones(len(text) if recipe.per_frame else 1, dtype=torch.bool)
        for inner in range(recipe.inner_steps):
            now = error(landed(noise(text)))
            if not bool(now.isfinite().all()):
                raise FloatingPointError(f"null-text inversion: the error is not finite at step {step + 1}; try a "
                                         "lower learning rate.")
            adam.zero_grad(set_to_none=True)
            now.sum().backward()
            before = text.detach().clone()
            adam.step()
            with torch.no_grad():
                # A frame that is good enough keeps its text while others go on.
                text.copy_(torch.where(left.to(text.device)[:, None, None], text, before))
            left &= now.detach().cpu() >= bound
            self.progress.update(step * recipe.inner_steps + inner + 1, None, loss=float(now.detach().mean()))
            if not left.any():
                break
        with torch.no_grad():
            unconditional = noise(text)
            reached = landed(unconditional)
            loss = float(error(reached).mean())
        picture = self._picture(z, above, unconditional, conditional, [*losses, loss])
        self.progress.update((step + 1) * recipe.inner_steps, picture, loss=loss)
        return text.detach(), reached.detach(), loss

    def _picture(self, z: Tensor, sigma: float, unconditional: Tensor, conditional: Tensor, losses: Sequence[float]
                 ) -> Any:
        """The clip as the step sees it, above the errors; every few seconds, and at the last step."""
        if monotonic() - self._shown < PREVIEW and len(losses) < len(self.sigmas) - 1:
            return None
        self._shown = monotonic()
        guided = unconditional + self.recipe.guidance * (conditional - unconditional)
        clean = z * math.sqrt(1 + sigma**2) - sigma * guided
        draw = self.backend.latent_picture(self.model) or rough_picture
        return training_preview(draw(middle_frame(clean)), losses, len(self.sigmas) - 1)
