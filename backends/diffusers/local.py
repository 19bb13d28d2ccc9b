"""What a host would give beside models: progress in its window, and a folder for weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from ..protocol import Progress


class TerminalProgress:
    """A tqdm bar on the terminal's error stream. See ``backends.protocol.Progress``."""

    def __init__(self, total: int, label: str):
        from tqdm import tqdm

        self.bar = tqdm(total=total, desc=label, leave=True)

    def update(self, value: int, preview: Any = None, **numbers: float) -> None:
        if numbers:
            self.bar.set_postfix({name: f"{number:.4g}" for name, number in numbers.items()}, refresh=False)
        self.bar.update(value - self.bar.n)
        if value >= self.bar.total:
            self.bar.close()


def weights_folder() -> Path:
    """``$STEADYEDIT_WEIGHTS``, else a folder in the user's cache."""
    named = os.environ.get("STEADYEDIT_WEIGHTS")
    return Path(named) if named else Path.home() / ".cache" / "steadyedit" / "weights"


class Local:
    """What every backend without a host gives; see ``backends.protocol.Backend``."""

    def latent_picture(self, model: Any) -> None:
        """No colours are known here: previews are rough."""

    def progress(self, total: int, label: str) -> Progress:
        return TerminalProgress(total, label)

    def weights_folder(self) -> Path:
        return weights_folder()

    def out_of_memory(self) -> tuple[type[BaseException], ...]:
        return (torch.OutOfMemoryError, MemoryError)
