"""Memory of a piece of work that is not done: the storages that live at its worst moment, in fake tensors.

In ``FakeTensorMode`` operators know shapes and dtypes and compute nothing: a training of 14 billion weights runs in
minutes on one core and takes no memory. The peak is of tensors alone: fragments, the matrix library's workspace
and what operators hold inside are not in it. Work is counted in a run of its own: a counter keeps tensors alive.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode

#: A new worst moment is written down when it is so much above the last one that was.
_NOTED = 1.002


@dataclass(frozen=True)
class Held:
    """Storages of one kind at the worst moment: made by ``operator`` for ``module``, of this shape and dtype."""

    bytes: int
    count: int
    operator: str
    shape: tuple[int, ...]
    dtype: str


class LiveStorages(TorchDispatchMode):
    """Follows every storage that an operator makes, until it dies, inside the ``with``.

    Args:
        outside: tensors that lie there before and are not counted.
        noted: write down what lives at the worst moment, for ``at_peak``.
    """

    def __init__(self, outside: Iterable[Tensor] = (), noted: bool = False) -> None:
        super().__init__()
        self._outside = {tensor.untyped_storage()._cdata for tensor in outside}
        self._known: dict[int, tuple[StorageWeakRef, int, tuple]] = {}
        self._noted, self._written = noted, 0
        self._moment: Counter[tuple[int, tuple]] = Counter()
        self.now = self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default:
            return 1.0  # a fake loss has no value, and a training asks whether it is finite
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._add(tensor, function)
        return out

    def _add(self, tensor: Tensor, function: Any) -> None:
        storage = tensor.untyped_storage()
        reference = StorageWeakRef(storage)
        key = reference.cdata
        if key in self._outside:
            return
        if (old := self._known.get(key)) is not None:
            if not old[0].expired():
                return
            self.now -= old[1]
        kind = str(function), tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
        self._known[key] = reference, storage.nbytes(), kind
        self.now += storage.nbytes()
        if self.now > self.peak:
            self.swept()
            if self.now > self.peak:
                self.peak = self.now
                self._note()

    def elsewhere(self, tensor: Tensor) -> Tensor:
        """The same tensor, which stands for one on another device and is not counted from now on."""
        if (known := self._known.pop(StorageWeakRef(tensor.untyped_storage()).cdata, None)) is not None:
            self.now -= known[1]
        return tensor

    def swept(self) -> int:
        """Bytes that live now."""
        for key in [key for key, (reference, _, _) in self._known.items() if reference.expired()]:
            self.now -= self._known.pop(key)[1]
        return self.now

    def _note(self) -> None:
        if self._noted and self.peak > _NOTED * self._written:
            self._written = self.peak
            self._moment = Counter()
            for _, size, kind in self._known.values():
                self._moment[size, kind] += 1

    def at_peak(self) -> list[Held]:
        """What lives at the worst moment, the largest first; within ``_NOTED`` of it."""
        held = [Held(size * count, count, *kind) for (size, kind), count in self._moment.items()]
        return sorted(held, key=lambda one: -one.bytes)


@contextmanager
def fake() -> Iterator[FakeTensorMode]:
    """Tensors that are made inside have no numbers and take no memory."""
    with FakeTensorMode() as mode:
        yield mode


def work_counter() -> FlopCounterMode:
    """Counts FLOP inside its ``with``, those of a CPU's attention too, which PyTorch's own counter passes over."""
    from torch.utils import flop_counter

    def forward(q: Any, k: Any, v: Any, *args: Any, **kwargs: Any) -> int:
        return flop_counter.sdpa_flop_count(q, k, v)

    def backward(grad: Any, q: Any, k: Any, v: Any, *args: Any, **kwargs: Any) -> int:
        return flop_counter.sdpa_backward_flop_count(grad, q, k, v)

    aten = torch.ops.aten
    return flop_counter.FlopCounterMode(display=False, custom_mapping={
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    })  # fmt: skip
