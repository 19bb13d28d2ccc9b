"""Every kernel beside what one would write without it, on inputs of one size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import isqrt

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from ...kernels import frame_attention as frame
from ...kernels import group_attention as group
from ...kernels.frame_attention.reference import pool_tokens
from ...kernels.temporal_attention import temporal_attention, temporal_attention_reference

Run = Callable[..., Tensor]

#: Frames whose keys all frames read in VIA's swap.
GROUP = 4


@dataclass(frozen=True)
class Size:
    """Frames of a clip, tokens of a frame (a square map), and the attention's heads."""

    frames: int
    tokens: int
    heads: int
    dim: int

    def __str__(self) -> str:
        return f"{self.frames}x{self.tokens}"

    @property
    def side(self) -> int:
        """Of the map."""
        return isqrt(self.tokens)


@dataclass(frozen=True)
class Contest:
    """One operation and its rivals.

    Args:
        name: of the operation.
        flops: of its two products, forward: what says whether a size can be waited for.
        inputs: of ``runs`` and of ``reference``; gradients are taken by those that ask.
        runs: by slug. "sdpa" is plain attention over an equal number of query-key pairs,
            on keys that lie ready; "ours" is this pack's; "literal" makes the keys of every
            frame, as the paper writes it, and calls SDPA. "flex", on a GPU, is FlexAttention
            over fine and coarse keys in a row, compiled.
        ready: inputs of "sdpa", made outside of the measured time.
        reference: what "ours" and "literal" must equal.
        baseline: the rival that ratios are to.
        trained: whether gradients go through it; where not, its result alone is checked and timed.
    """

    name: str
    flops: float
    inputs: tuple[Tensor, ...]
    runs: dict[str, Run]
    ready: tuple[Tensor, ...]
    reference: Run
    baseline: str = "sdpa"
    trained: bool = True


def contests(size: Size, device: torch.device, dtype: torch.dtype) -> Iterator[Contest]:
    """All operations on one size, one after the other, so that their inputs are freed between."""
    generator = torch.Generator().manual_seed(0)

    def tokens(rows: int, length: int, heads: int = size.heads) -> Tensor:
        values = torch.randn(rows, length, heads * size.dim, generator=generator)
        return values.to(device, dtype).requires_grad_()

    for ratio in (2, 4):
        coarse = (-(-size.side // ratio)) ** 2
        contest = _frame_contest(size, tokens, f"ffam-{ratio}", _fine_coarse_literal, frame.frame_attention,
                                 frame.frame_attention_reference, (size.side, size.side, ratio),
                                 size.tokens + (size.frames - 1) * coarse)  # fmt: skip
        if device.type == "cuda":
            contest.runs["flex"] = fine_coarse_flex(size, ratio, coarse, device)
        yield contest
    yield _frame_contest(size, tokens, "sparse-causal", _sparse_causal_literal, frame.sparse_causal_attention,
                         frame.sparse_causal_attention_reference, (), 2 * size.tokens)  # fmt: skip
    yield _frame_contest(size, tokens, "full-attention", _full_literal, frame.full_attention,
                         frame.full_attention_reference, (), size.frames * size.tokens)  # fmt: skip
    yield from _group_contests(size, tokens)
    yield _temporal_contest(size, tokens)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """SDPA on [batch, tokens, heads * d]."""
    split = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)


def _flops(size: Size, keys: int) -> float:
    return 4.0 * size.frames * size.tokens * keys * size.heads * size.dim


def _frame_contest(
    size: Size, tokens: Run, name: str, literal: Run, ours: Run, reference: Run, more: tuple[int, ...], keys: int
) -> Contest:
    q, k, v = (tokens(size.frames, size.tokens) for _ in range(3))
    arguments = (size.heads, size.frames, *more)
    return Contest(
        name, _flops(size, keys), (q, k, v),
        {
            "sdpa": partial(attend, heads=size.heads),
            "ours": lambda q, k, v: ours(q, k, v, *arguments),
            "literal": lambda q, k, v: attend(q, literal(k, *arguments), literal(v, *arguments), size.heads),
        },
        (q, tokens(size.frames, keys), tokens(size.frames, keys)),
        lambda q, k, v: reference(q, k, v, *arguments),
    )  # fmt: skip


def _fine_coarse_literal(x: Tensor, heads: int, frames: int, height: int, width: int, ratio: int) -> Tensor:
    coarse = pool_tokens(x, height, width, ratio)
    rows = [torch.cat([x[i], *(coarse[j] for j in range(frames) if j != i)]) for i in range(frames)]
    return torch.stack(rows)


def fine_coarse_flex(
    size: Size, ratio: int, coarse: int, device: torch.device, compiler: Callable[[Run], Run] = torch.compile
) -> Run:
    """The same by FlexAttention: all fine tokens and then all coarse ones are keys, and a mask says whose.

    Args:
        coarse: pooled tokens of a frame.
    """
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    queries = size.frames * size.tokens

    def seen(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        own = k // size.tokens == q // size.tokens
        other = (k - queries) // coarse != q // size.tokens
        return torch.where(k < queries, own, other)

    mask = create_block_mask(seen, None, None, queries, queries + size.frames * coarse, device=str(device))
    compiled = compiler(flex_attention)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = (
            torch.cat([x.flatten(0, 1), pool_tokens(x, size.side, size.side, ratio).flatten(0, 1)]) for x in (k, v)
        )
        split = (x.unflatten(-1, (size.heads, -1)).transpose(0, 1)[None] for x in (q.flatten(0, 1), keys, values))
        return compiled(*split, block_mask=mask)[0].transpose(0, 1).reshape(q.shape)

    return run


def _sparse_causal_literal(x: Tensor, heads: int, frames: int) -> Tensor:
    previous = [max(i - 1, 0) for i in range(frames)]
    return torch.cat([x[:1].expand_as(x), x[previous]], dim=1)


def _full_literal(x: Tensor, heads: int, frames: int) -> Tensor:
    return x.flatten(0, 1)[None].repeat(frames, 1, 1)


def _group_contests(size: Size, tokens: Run) -> Iterator[Contest]:
    """VIA's gather and swap, and Fairy's cross-frame attention, with a group of four frames."""
    heads, length = size.heads, size.tokens

    def contest(name: str, keys: int, inputs: tuple[Tensor, ...], ours: Run, literal: Run, reference: Run) -> Contest:
        rows = inputs[0].shape[0]
        return Contest(
            name, 4.0 * rows * length * keys * heads * size.dim, inputs,
            {"sdpa": partial(attend, heads=heads), "ours": ours, "literal": literal},
            (inputs[0], tokens(rows, keys), tokens(rows, keys)), reference,
        )  # fmt: skip

    def repeated(x: Tensor) -> Tensor:
        return x.flatten(0, 1)[None].repeat(size.frames, 1, 1)

    def previous(x: Tensor) -> Tensor:
        return x[[max(i - 1, 0) for i in range(len(x))]]

    q, own_k, own_v = (tokens(size.frames, length) for _ in range(3))
    k, v = tokens(GROUP, length), tokens(GROUP, length)
    yield contest(
        "gather", length, (q, own_k, own_v),
        lambda q, k, v: group.gather_attention(q, k, v, heads, 1),
        lambda q, k, v: attend(q, previous(k), previous(v), heads),
        lambda q, k, v: group.gather_attention_reference(q, k, v, heads, 1),
    )  # fmt: skip
    yield contest(
        "swap", GROUP * length, (q, k, v),
        lambda q, k, v: group.swap_attention(q, k, v, heads, 1),
        lambda q, k, v: attend(q, repeated(k), repeated(v), heads),
        lambda q, k, v: group.swap_attention_reference(q, k, v, heads, 1),
    )  # fmt: skip
    yield contest(
        "cross-frame", (GROUP + 1) * length, (q, own_k, own_v, k, v),
        lambda q, a, b, k, v: group.cross_frame_attention(q, a, b, k, v, heads, 1),
        lambda q, a, b, k, v: attend(q, torch.cat([a, repeated(k)], 1), torch.cat([b, repeated(v)], 1), heads),
        lambda q, a, b, k, v: group.cross_frame_attention_reference(q, a, b, k, v, heads, 1),
    )  # fmt: skip


def _temporal_contest(size: Size, tokens: Run) -> Contest:
    """Attention over the frames of a place, with its projections; "sdpa" has the frames beside each other already.

    Eight heads everywhere: between projections of one head's width the attention itself would vanish.
    """
    size = replace(size, heads=8)
    channels, heads, frames = size.heads * size.dim, size.heads, size.frames
    z = tokens(frames, size.tokens, heads)
    weights = tuple(tokens(1, channels, heads)[0].detach().mul_(channels**-0.5).requires_grad_() for _ in range(3))

    def place_major(z: Tensor, wq: Tensor, wk: Tensor, wv: Tensor) -> Tensor:
        return attend(linear(z, wq), linear(z, wk), linear(z, wv), heads)

    return Contest(
        "temporal", 4.0 * size.tokens * frames * frames * channels + 6.0 * size.tokens * frames * channels**2,
        (z, *weights),
        {
            "sdpa": place_major,
            "ours": lambda z, wq, wk, wv: temporal_attention(z, wq, wk, wv, heads, frames),
            "literal": lambda z, *w: place_major(z.transpose(0, 1).contiguous(), *w).transpose(0, 1).contiguous(),
        },
        (z.detach().transpose(0, 1).contiguous().requires_grad_(), *weights),
        lambda z, wq, wk, wv: temporal_attention_reference(z, wq, wk, wv, heads, frames),
    )  # fmt: skip
