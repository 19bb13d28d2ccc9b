"""The noise that a clip starts from, drawn frame by frame, so that it hangs on no window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

#: How frames share their noise.
SAME, OWN = "the same for all frames", "each frame its own"


@dataclass
class FrameNoise:
    """Standard normal noise of frame i from a seed: what the host draws for a batch with ``batch_index`` i.

    Args:
        seed: of one generator on the CPU that draws frame after frame.
        how: ``SAME`` gives every frame that of frame 0, ``OWN`` each its own.
        held: frames whose noise is wanted again and again.
    """

    seed: int
    how: str = SAME
    held: Sequence[int] = ()
    _generator: torch.Generator = field(default_factory=torch.Generator, init=False)
    _next: int = field(default=-1, init=False)
    _kept: dict[int, Tensor] = field(default_factory=dict, init=False)

    def of(self, ids: Sequence[int], shape: Sequence[int]) -> Tensor:
        """float32 [len(ids), *shape], on the CPU."""
        wanted = [0] * len(ids) if self.how == SAME else list(ids)
        held = {0} if self.how == SAME else set(self.held)
        found = {i: self._kept[i] for i in wanted if i in self._kept}
        for i in sorted(set(wanted) - set(found)):
            found[i] = self._drawn(i, shape)
            if i in held:
                self._kept[i] = found[i]
        return torch.stack([found[i] for i in wanted])

    def _drawn(self, index: int, shape: Sequence[int]) -> Tensor:
        if self._next < 0 or index < self._next:
            self._generator.manual_seed(self.seed)
            self._next = 0
        while True:
            noise = torch.randn((1, *shape), generator=self._generator)[0]
            self._next += 1
            if self._next > index:
                return noise
