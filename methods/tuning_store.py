"""Finished weights and checkpoints of tunings on disk."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .tensor_file import read_tensors, write_tensors
from .tuned_weights import TunedWeights, load_tuned, save_tuned

log = logging.getLogger(__name__)
CHECKPOINT_KEY = "steadyedit_checkpoint"


class TuningStore:
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
            return _unpacked(*read_tensors(self.checkpoint, CHECKPOINT_KEY))
        except ValueError as error:
            log.warning("%s: a damaged checkpoint, starting anew (%s).", self.checkpoint.name, error)
            return None

    def keep(self, state: Mapping[str, Any]) -> None:
        if self.checkpoint is not None:
            try:
                write_tensors(self.checkpoint, *_packed(state))
            except OSError as error:
                log.warning("%s; training goes on without this checkpoint.", error)


def _packed(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], str, dict[str, Any]]:
    """``NoiseTraining.state()`` as tensors, the metadata's key, and what JSON holds exactly."""
    tensors = {f"parameters.{name}": tensor for name, tensor in state["parameters"].items()}
    for number, moments in state["optimizer"]["state"].items():
        tensors |= {f"optimizer.{number}.{name}": moment for name, moment in moments.items()}
    tensors["generator"] = state["generator"]
    return tensors, CHECKPOINT_KEY, {"groups": state["optimizer"]["param_groups"], "losses": state["losses"]}


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
