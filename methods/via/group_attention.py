"""The attentions of gather-swap: a group's keys and values, kept for one evaluation and read by every frame."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...kernels.group_attention import cross_frame_attention, gather_attention, swap_attention
from ..sampling_plan import Replacement


@dataclass
class KeyValueCache:
    """Keys and values of the group for one evaluation of one step.

    Entries are kept by (branch, path of the block, kind), never by order: a branch is what a
    host identifies a condition by, so that branches may arrive together or apart.
    """

    entries: dict[tuple[Hashable, str, str], tuple[Tensor, Tensor]] = field(default_factory=dict)

    def put(self, branch: Hashable, path: str, kind: str, k: Tensor, v: Tensor) -> None:
        """Keep k, v [group, tokens, channels] of one attention under one condition."""
        self.entries[branch, path, kind] = k, v

    def get(self, branch: Hashable, path: str, kind: str) -> tuple[Tensor, Tensor]:
        """What ``put`` kept.

        Raises:
            RuntimeError: the group has not been there in this evaluation.
        """
        try:
            return self.entries[branch, path, kind]
        except KeyError:
            raise RuntimeError(
                f"gather-swap: {path} has no {kind}-attention keys of the group for this condition; something in the "
                "chain skipped the group's pass, so remove what caches or skips parts of a step."
            ) from None

    def clear(self) -> None:
        """Forget everything."""
        self.entries.clear()

    def __len__(self) -> int:
        return len(self.entries)

    @contextmanager
    def evaluation(self) -> Iterator[KeyValueCache]:
        """Empty before and after one evaluation of the denoiser, also where it fails."""
        self.clear()
        try:
            yield self
        finally:
            self.clear()


@dataclass(frozen=True)
class GroupAttention(Replacement):
    """The attentions of one call of the U-Net within gather-swap.

    Args:
        mode: "gather", where the batch is [branches * group] and fills the cache, or "swap",
            where it is [branches * frames of a chunk] and reads it.
        cache: shared by the calls of one evaluation.
        kinds, sites: see ``Replacement``.
        gather, own_keys: see ``GatherSwap``.
    """

    mode: str
    cache: KeyValueCache
    kinds: tuple[str, ...]
    sites: frozenset[str] = frozenset()
    gather: bool = True
    own_keys: bool = False

    def attention(self, path: str, kind: str, q: Tensor, k: Tensor, v: Tensor, heads: int,
                  branches: tuple[Hashable, ...], x: Tensor | None = None) -> Tensor:
        """See ``Replacement.attention``."""
        n = len(branches)
        if self.mode == "gather":
            for branch, k_, v_ in zip(branches, k.chunk(n), v.chunk(n), strict=True):
                self.cache.put(branch, path, kind, k_, v_)
            if self.gather:
                return gather_attention(q, k, v, heads, n)
            return swap_attention(q, k, v, heads, len(q))  # as many branches as rows: each its own keys
        parts = []
        for branch, *own in zip(branches, q.chunk(n), k.chunk(n), v.chunk(n), strict=True):
            # One branch at a time, so that the cache's keys are read where they lie.
            # A host with several devices may give a branch another one than in the group's turn.
            group = [x.to(q.device) for x in self.cache.get(branch, path, kind)]
            if self.own_keys:
                parts.append(cross_frame_attention(own[0], own[1], own[2], group[0], group[1], heads, 1))
            else:
                parts.append(swap_attention(own[0], group[0], group[1], heads, 1))
        return parts[0] if n == 1 else torch.cat(parts)
