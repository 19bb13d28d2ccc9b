"""Noise that a sampler draws, with reference frames in its batch: drawn for the clip, each has its own frame's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

SIZED = frozenset({torch.randn, torch.rand})
LIKE = frozenset({torch.randn_like, torch.rand_like})
IN_PLACE = frozenset({Tensor.normal_, Tensor.uniform_})


class RowNoise(TorchFunctionMode):
    """While entered, torch's random draws of one row per frame and reference frame are draws of one row per frame.

    So the frames get the numbers that they would get alone, and reference frame j those of frame
    group[j]. It stands below every sampler: ``noise_sampler``, churn, Brownian trees (which draw
    by ``torch.randn``) and those of other packs. It belongs to the thread that entered it.

    Args:
        frames: of the clip.
        group: the frame of each row that rides along.
    """

    def __init__(self, frames: int, group: Sequence[int]) -> None:
        self.frames, self.group = frames, list(group)
        super().__init__()

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in SIZED:
            size = kwargs.get("size") or (args[0] if len(args) == 1 and isinstance(args[0], (tuple, list)) else args)
            if self.counts(size):
                kwargs.pop("size", None)
                return self.with_rows(func((self.frames, *size[1:]), **kwargs))
        if func in LIKE and self.counts(args[0].shape):
            return self.with_rows(func(args[0][: self.frames], *args[1:], **kwargs))
        if func in IN_PLACE and self.counts(args[0].shape):
            x = args[0]
            func(x[: self.frames], *args[1:], **kwargs)
            x[self.frames :] = x[self.group]
            return x
        return func(*args, **kwargs)

    def counts(self, size: Sequence[int]) -> bool:
        """Whether a tensor of this size has a row for every frame and reference frame."""
        return len(size) > 0 and size[0] == self.frames + len(self.group)

    def with_rows(self, drawn: Tensor) -> Tensor:
        return torch.cat([drawn, drawn[self.group]])

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Draws inside are left alone: a U-Net draws none, and a compiled one should meet no mode."""
        self.__exit__(None, None, None)
        try:
            yield
        finally:
            self.__enter__()
