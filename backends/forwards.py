"""Forwards of a network's layers, replaced or listened to for a while: no key is renamed, and nothing of ours stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


@contextmanager
def forward_replaced(module: nn.Module, forward: Callable) -> Iterator[None]:
    """Let ``forward`` answer for the module inside the ``with``; afterwards exactly what was there before does."""
    had, before = "forward" in module.__dict__, module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if had:
            module.forward = before
        else:
            del module.__dict__["forward"]


@contextmanager
def input_recorded(layer: nn.Module, found: list[Tensor]) -> Iterator[None]:
    """What goes into a layer is the one element of ``found`` then, inside the ``with``."""

    def record(module: nn.Module, args: tuple) -> None:
        found[:] = args[:1]

    handle = layer.register_forward_pre_hook(record)
    try:
        yield
    finally:
        handle.remove()
        found.clear()
