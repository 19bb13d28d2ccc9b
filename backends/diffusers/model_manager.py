"""``backends.model_manager`` without a host: networks stay on the device that there is."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn

from .local import weights_folder


class PlainManaged:
    """See ``backends.model_manager.ManagedModel``."""

    def __init__(self, module: nn.Module):
        self.module = module

    def load(self, memory: float = 0) -> None:
        self.module.to("cuda" if torch.cuda.is_available() else "cpu")


class PlainManager:
    """See ``backends.model_manager.ModelManager``."""

    def manage(self, module: nn.Module) -> PlainManaged:
        return PlainManaged(module)

    def precision(self) -> torch.dtype:
        return torch.bfloat16 if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else torch.float32

    def weights_folder(self) -> Path:
        return weights_folder()

    def folders(self, name: str) -> list[Path]:
        """``$STEADYEDIT_MODELS/name``, else a folder in the user's cache."""
        named = os.environ.get("STEADYEDIT_MODELS")
        return [(Path(named) if named else Path.home() / ".cache" / "steadyedit" / "models") / name]
