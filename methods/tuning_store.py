"""Finished weights and checkpoints of tunings on disk."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .atomic import write_atomically
from .tuned_weights import TunedWeights, load_tuned, save_tuned

log = logging.getLogger(__name__)


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
