"""Inputs of blocks that are computed again wait in the main memory instead of on the device."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor


def to_main_memory(x: Tensor) -> Tensor:
    """A copy in the main memory, pinned where that makes the way back faster."""
    if x.device.type != "cuda":
        return x.cpu()
    # The copy is queued behind what made x: its memory is not given away before.
    return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)


def from_main_memory(x: Tensor, device: torch.device) -> Tensor:
    """The copy on the device again."""
    return x.to(device, non_blocking=True)


def offloaded(like: Tensor) -> AbstractContextManager[None]:
    """What autograd keeps inside the ``with`` waits in the main memory, if it has the shape of ``like``."""
    # Autograd keeps the hooks as long as what they have kept: they must not hold ``like`` itself.
    shape = like.shape

    def pack(x: Tensor) -> Tensor | tuple[Tensor, torch.device]:
        return (to_main_memory(x), x.device) if x.shape == shape else x

    def unpack(kept: Tensor | tuple[Tensor, torch.device]) -> Tensor:
        return from_main_memory(*kept) if isinstance(kept, tuple) else kept

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)
