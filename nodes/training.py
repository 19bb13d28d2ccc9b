"""What the nodes that train share: inputs of a recipe, the loss, and where finished runs are kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from comfy_api.latest import io

if TYPE_CHECKING:
    from ..backends.protocol import Host


def learning_rate_input(default: float, more: str = "") -> io.Float.Input:
    """AdamW's; ``more`` is said behind."""
    return io.Float.Input("learning_rate", default=default, min=1e-8, max=1.0, step=1e-6, round=False,
                          tooltip=f"AdamW's learning rate.{more and ' ' + more}")


def seed_input(of: str, highest: int = 2**63 - 1) -> io.Int.Input:
    """Of a training; ``of`` says what it draws."""
    return io.Int.Input("seed", default=0, min=0, max=highest, control_after_generate="fixed",
                        tooltip=f"Seed of {of}. Another seed is another training.")


def rank_input(of: str) -> io.Int.Input:
    return io.Int.Input("rank", default=16, min=1, max=1024, tooltip=f"Of the LoRA{of}.")


def reuse_input(what: str = "finished weights") -> io.Boolean.Input:
    return io.Boolean.Input("reuse", default=True, tooltip=f"Find {what} of an equal run, and continue an interrupted "
                            "one. Off: train anew and keep nothing on disk.")


def loss_map_output() -> io.LossMap.Output:
    return io.LossMap.Output(display_name="loss_map", tooltip="Loss of every step, for the core Plot Loss Graph.")


def lora_output() -> io.LoraModel.Output:
    return io.LoraModel.Output(display_name="lora", tooltip="For the core Save LoRA Weights and Load LoRA Model.")


def cache_of(backend: Host, reuse: bool) -> Path | None:
    """Folder of finished and interrupted runs, made small enough first; None where nothing is to be kept."""
    from ..files.cache import FOLDER, limit_bytes, trim

    if not reuse:
        return None
    folder = backend.weights_folder() / FOLDER
    trim(folder, limit_bytes())
    return folder
