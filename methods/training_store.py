"""Finished weights and checkpoints of trainings on disk."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .stored import locked, set_aside, store, stored
from .tensor_file import write_tensors
from .tuned_weights import METADATA_KEY, QUERY_PREFIX, TunedWeights, load_tuned

if TYPE_CHECKING:
    from ..diffusion.training import Together

log = logging.getLogger(__name__)

CHECKPOINT_VERSION = 1
#: Under which finished weights name the training that they belong to.
KEY = "training"


class TrainingStore:
    """Finished weights and the checkpoint of one training on disk; does nothing without a folder or key.

    Args:
        folder: of all trainings.
        key: hash of everything that decides the outcome; None where it can not be told.
        name: of the training, for messages.
        together: processes of one training, of which the first one writes.
    """

    def __init__(self, folder: Path | None, key: str | None, name: str = "tuning",
                 together: Together | None = None) -> None:
        self.key, self.name, self.together = key, name, together
        self.weights: Path | None = None
        self.checkpoint: Path | None = None
        self.lock: Path | None = None
        if folder is not None and key is not None:
            self.weights, self.checkpoint, self.lock = (
                folder / f"{key}.{ending}" for ending in ("safetensors", "checkpoint", "lock"))

    def found_or_made(
        self, make: Callable[[], TunedWeights], expected: Mapping[str, Tensor], wait: Callable[[], None]
    ) -> tuple[TunedWeights, bool]:
        """The finished weights, else those that ``make`` trains; whether they were found.

        One process trains at a time: another one waits and takes its result.

        Args:
            expected: tensors of the names and shapes that the weights must have, beside query differences.
            wait: called while another process trains; may raise to give up.
        """
        if self.weights is None or self.lock is None:
            return make(), False
        if self.together is not None:
            return self._found_or_made_together(make, expected, wait, self.together)
        if (found := self._finished(expected)) is not None:
            return found, True
        with locked(self.lock, self.name, wait):
            if (found := self._finished(expected)) is not None:
                return found, True
            weights = make()
            self._finish(weights)
            return weights, False

    def _found_or_made_together(self, make: Callable[[], TunedWeights], expected: Mapping[str, Tensor],
                                wait: Callable[[], None], together: Together) -> tuple[TunedWeights, bool]:
        """The first process looks, and keeps others of the machine out; all train, or take what is there."""
        with locked(self.lock, self.name, wait) if self.lock and together.rank == 0 else nullcontext():
            found = self._finished(expected) if together.rank == 0 else None
            if together.first(found is not None):
                found = found or self._finished(expected)
                if found is None:
                    raise ValueError(f"{self.name}: is finished for the first process and not for another; let all of "
                                     "them read one folder of checkpoints.")
                return found, True
            weights = make()
            if together.rank == 0:
                self._finish(weights)
            return weights, False

    def resume(self) -> dict[str, Any] | None:
        """``NoiseTraining.state()`` of the checkpoint; None where there is none. A damaged one is set aside."""
        if self.checkpoint is None or (found := stored(self.checkpoint, self._description())) is None:
            return None
        try:
            return _unpacked(*found)
        except (KeyError, TypeError, ValueError) as error:
            set_aside(self.checkpoint, f"{self.checkpoint.name}: is no checkpoint of this training ({error}).")
            return None

    def keep(self, state: Mapping[str, Any]) -> None:
        """Write a checkpoint; where that fails, training goes on without it."""
        if self.checkpoint is None or (self.together is not None and self.together.rank):
            return
        try:
            tensors, settings = _packed(state)
            store(self.checkpoint, tensors, self._description(), settings)
        except (OSError, ValueError) as error:
            log.warning("%s Training goes on without this checkpoint.", error)

    def _description(self) -> dict[str, Any]:
        return {"kind": "checkpoint of a training", "version": CHECKPOINT_VERSION, KEY: self.key}

    def _finished(self, expected: Mapping[str, Tensor]) -> TunedWeights | None:
        if self.weights is None or not self.weights.is_file():
            return None
        try:
            weights = load_tuned(self.weights)
            self._check(self.weights.name, weights, expected)
        except ValueError as error:
            set_aside(self.weights, str(error))
            return None
        metadata = {name: value for name, value in weights.metadata.items() if name != KEY}
        return TunedWeights(weights.tensors, metadata)

    def _check(self, name: str, weights: TunedWeights, expected: Mapping[str, Tensor]) -> None:
        """Raise ValueError where weights are not those of this training. Version 0.1.0 did not name it."""
        losses = weights.metadata.get("losses")
        whole = isinstance(losses, list) and all(isinstance(x, (int, float)) and math.isfinite(x) for x in losses)
        own = {key: value for key, value in weights.tensors.items() if not key.startswith(QUERY_PREFIX)}
        if weights.metadata.get(KEY, self.key) != self.key or not whole or own.keys() != expected.keys() or any(
            own[key].shape != value.shape for key, value in expected.items()
        ):
            raise ValueError(f"{name}: are the weights of something else.")

    def _finish(self, weights: TunedWeights) -> None:
        if self.weights is None or self.checkpoint is None:
            return
        try:
            write_tensors(self.weights, weights.tensors, METADATA_KEY, {**weights.metadata, KEY: self.key})
            self.checkpoint.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s The training itself is not lost, but will not be found again.", error)


def _packed(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """``NoiseTraining.state()`` as tensors and what JSON holds exactly."""
    tensors = {f"parameters.{name}": tensor for name, tensor in state["parameters"].items()}
    for number, moments in state["optimizer"]["state"].items():
        tensors |= {f"optimizer.{number}.{name}": moment for name, moment in moments.items()}
    tensors["generator"] = state["generator"]
    return tensors, {"groups": state["optimizer"]["param_groups"], "losses": state["losses"]}


def _unpacked(tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of ``_packed``."""
    moments: dict[int, dict[str, Tensor]] = {}
    parameters = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "parameters":
            parameters[rest] = tensor
        elif kind == "optimizer":
            number, _, moment = rest.partition(".")
            moments.setdefault(int(number), {})[moment] = tensor
    return {
        "parameters": parameters,
        "optimizer": {"state": moments, "param_groups": settings["groups"]},
        "generator": tensors["generator"],
        "losses": list(settings["losses"]),
    }
