"""The feed-forward of a transformer's block, frozen, some tokens at a time: its inner width is the block's widest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...methods.lora_edit import memory
from .frozen_layers import add_low_rank, borrowed_weights, low_rank_gradients


class FrozenFeedForward(torch.autograd.Function):
    """y = W_2 gelu(W_1 x), each W x with a bias and a LoRA B A x beside it; saves x and the LoRA's matrices.

    Backward computes the inner values again, so that they are never kept, and never whole; or ``kept`` has them kept.
    """

    @staticmethod
    def forward(
        ctx, x: Tensor, layers: Sequence[nn.Module], skipped: Callable[[], bool], kept: bool, *matrices: Tensor | None
    ):
        """[..., width]. ``skipped`` says that nobody reads the output: its values are left undefined then."""
        ctx.layers = layers
        out = torch.empty_like(x)
        before: list[Tensor] = []
        if skipped():
            ctx.save_for_backward(x, *matrices)
            return out
        rows, out_rows = _rows(x), _rows(out)
        with _weights(layers, x) as (first, second):
            for part in _parts(rows):
                inner = _product(rows[part], first, matrices[:2])
                if kept:
                    before.append(inner)
                inner = F.gelu(inner, approximate="tanh")
                out_rows[part] = _product(inner, second, matrices[2:])
        ctx.save_for_backward(x, *matrices, *before)
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor):
        x, *matrices = ctx.saved_tensors
        matrices, before = matrices[:4], matrices[4:]
        rows, gradient_rows, grown = _rows(x), _rows(gradient), [None] * 4
        x_gradient = torch.empty_like(rows)
        with _weights(ctx.layers, gradient) as weights:
            for number, part in enumerate(_parts(rows)):
                known = before[number] if before else None
                x_gradient[part] = _part_gradient(rows[part], known, gradient_rows[part], weights, matrices, grown)
        return x_gradient.reshape(x.shape), None, None, None, *grown


def _part_gradient(
    x: Tensor, before: Tensor | None, gradient: Tensor, weights: Sequence[tuple], matrices: Sequence[Tensor | None],
    grown: list,
) -> Tensor:  # fmt: skip
    """dL/dx of some tokens. A function of its own, so that nothing of one part is left beside the next."""
    if before is None:
        before = _product(x, weights[0], matrices[:2])
    inner = F.gelu(before, approximate="tanh")
    inner_gradient = _back(gradient, inner, weights[1], matrices[2:], grown, 2)
    del inner
    inner_gradient = torch.ops.aten.gelu_backward(inner_gradient, before, approximate="tanh")
    del before
    return _back(inner_gradient, x, weights[0], matrices[:2], grown, 0)


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _parts(rows: Tensor) -> Iterator[slice]:
    at_once = memory.FEED_FORWARD_TOKENS
    return (slice(start, start + at_once) for start in range(0, len(rows), at_once))


@contextmanager
def _weights(layers: Sequence[nn.Module], like: Tensor) -> Iterator[list[tuple[Tensor, Tensor | None]]]:
    """Weight and bias of both layers, asked of the host once for all parts."""
    with ExitStack() as stack:
        yield [stack.enter_context(borrowed_weights(layer, like)) for layer in layers]


def _product(x: Tensor, weights: tuple[Tensor, Tensor | None], matrices: Sequence[Tensor | None]) -> Tensor:
    y = F.linear(x, *weights)
    return y if matrices[0] is None else add_low_rank(y, x, *matrices)


def _back(gradient: Tensor, x: Tensor, weights: tuple, matrices: Sequence[Any], grown: list, place: int) -> Tensor:
    """dL/dx of ``_product``; adds the matrices' gradients to ``grown``."""
    x_gradient = gradient @ weights[0]
    if matrices[0] is None:
        return x_gradient
    through, *new = low_rank_gradients(gradient, x, *matrices)
    for number, value in enumerate(new, place):
        grown[number] = value if grown[number] is None else grown[number].add_(value)
    return x_gradient.addmm_(through, matrices[0].to(gradient.dtype))


def is_feed_forward(module: nn.Module) -> bool:
    """Whether a module is Linear, GELU (tanh), Linear, and nothing else answers for it."""
    parts = list(module.children())
    return (
        isinstance(module, nn.Sequential) and "forward" not in vars(module) and len(parts) == 3
        and isinstance(parts[1], nn.GELU) and parts[1].approximate == "tanh"
        and all(hasattr(part, "in_features") and "forward" not in vars(part) for part in parts[::2])
    )  # fmt: skip


def feed_forward(
    module: nn.Module, pairs: Sequence[Sequence[Tensor]], skipped: Callable[[], bool], kept: bool
) -> Callable:
    """Forward of a module that ``is_feed_forward``.

    Args:
        pairs: (A, B) of the LoRA beside the first and the second Linear, or () where there is none.
        skipped, kept: see ``FrozenFeedForward``.
    """
    first, _, second = module.children()
    matrices = [matrix for pair in pairs for matrix in (pair or (None, None))]
    return lambda x: FrozenFeedForward.apply(x, (first, second), skipped, kept, *matrices)
