"""Networks beside the U-Net (segmentation, grounding, captions) in the host's care."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import nn


class ManagedModel(Protocol):
    """A network that the host moves to its device before it works, and away when others need the memory."""

    module: nn.Module

    def load(self, memory: float = 0) -> None:
        """Put the whole network on the device, with ``memory`` bytes free beside it."""


class ModelManager(Protocol):
    """A host's memory management for such networks."""

    def manage(self, module: nn.Module) -> ManagedModel:
        """Hand a network over; it is freed when nobody holds the result any more."""

    def precision(self) -> torch.dtype:
        """The type that suits the device: half where it computes in it, else float32."""

    def weights_folder(self) -> Path:
        """Where tuned weights are saved; made when something is."""

    def folders(self, name: str) -> list[Path]:
        """Where models of one kind lie, such as ``sams``; they need not exist."""
