"""Gather-swap where text, picture and references attend to each other in one attention (FLUX, Qwen-Image).

Only the picture's own queries look at the group: at its frames' picture keys in the place of their own, with their
own text's and their own references' keys beside them. Text and references attend to their own frame, as ever. Each
frame's picture has the same positions, so that keys that are rotated by theirs stay right in other frames.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..sampling_plan import Replacement

if TYPE_CHECKING:
    from .group_attention import KeyValueCache

#: softmax(QK^T / sqrt d + mask) V of the host: q, k, v [rows, heads, tokens, d], mask or None -> [rows, tokens, c].
Attend = Callable[[Tensor, Tensor, Tensor, Any], Tensor]

KIND = "joint"


@dataclass(frozen=True)
class TokenLayout:
    """Numbers of tokens, in their order."""

    text: int
    image: int
    references: int = 0

    @property
    def total(self) -> int:
        """Of all."""
        return self.text + self.image + self.references


@dataclass(frozen=True)
class JointGroupAttention(Replacement):
    """The joint attentions of one call within gather-swap.

    Args:
        mode, cache, gather, own_keys: see ``GroupAttention``.
        sites: paths of the blocks.
    """

    mode: str
    cache: KeyValueCache
    sites: frozenset[str] = frozenset()
    gather: bool = True
    own_keys: bool = False

    def joint(self, path: str, q: Tensor, k: Tensor, v: Tensor, tokens: TokenLayout, branches: tuple[Hashable, ...],
              attend: Attend, mask: Tensor | None = None) -> Tensor:
        """In place of the host's attention over all tokens.

        Args:
            path: of the block.
            q, k, v: [branches * rows, heads, tokens, d], rotated.
            tokens: what they are.
            branches: identities of the conditions in the batch, in its order.
            mask: broadcast to [branches * rows, (heads,) queries, keys]; added, or True where a key is seen.

        Returns:
            [branches * rows, tokens, heads * d].
        """
        start, stop, n = tokens.text, tokens.text + tokens.image, len(branches)
        images: list[Tensor] = []
        for i, branch in enumerate(branches):
            rows = slice(i * len(q) // n, (i + 1) * len(q) // n)
            own_k, own_v = (x[rows, :, start:stop] for x in (k, v))
            if self.mode == "gather":
                self.cache.put(branch, path, KIND, own_k.clone(), own_v.clone())
            seen_k, seen_v = self._seen(branch, path, own_k, own_v)
            keys, values = (torch.cat([x[rows, :, :start], seen, x[rows, :, stop:]], 2)
                            for x, seen in ((k, seen_k), (v, seen_v)))  # fmt: skip
            wide = masked(_rows(mask, rows, len(q)), slice(start, stop), start, stop, seen_k.shape[2] // tokens.image)
            images.append(attend(q[rows, :, start:stop], keys, values, wide))
        image = torch.cat(images)
        queries = torch.cat([q[:, :, :start], q[:, :, stop:]], 2)
        if not queries.shape[2]:
            return image
        rest = attend(queries, k, v, _without(mask, start, stop))
        return torch.cat([rest[:, :start], image, rest[:, start:]], 1)

    def _seen(self, branch: Hashable, path: str, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Picture keys and values that the rows of one branch look at, [rows, heads, keys, d]."""
        if self.mode == "gather":
            if not self.gather:
                return k, v
            # VIA, equation 7: the frame before; the first one its own.
            before = [max(i - 1, 0) for i in range(len(k))]
            return k[before], v[before]
        pairs = []
        for own, held in zip((k, v), self.cache.get(branch, path, KIND), strict=True):
            group = held.to(own.device).movedim(0, 1).flatten(1, 2)[None].expand(len(own), -1, -1, -1)
            pairs.append(torch.cat([own, group], 2) if self.own_keys else group)
        return pairs[0], pairs[1]


def masked(mask: Tensor | None, queries: slice, start: int, stop: int, times: int) -> Tensor | None:
    """A mask for picture queries that see ``times`` pictures: a swapped key is masked as the own one at its place."""
    if mask is None:
        return None
    if mask.shape[-2] > 1:
        mask = mask[..., queries, :]
    return torch.cat([mask[..., :start], *[mask[..., start:stop]] * times, mask[..., stop:]], -1)


def _without(mask: Tensor | None, start: int, stop: int) -> Tensor | None:
    """A mask without the picture's queries."""
    if mask is None or mask.shape[-2] == 1:
        return mask
    return torch.cat([mask[..., :start, :], mask[..., stop:, :]], -2)


def _rows(mask: Tensor | None, rows: slice, total: int) -> Tensor | None:
    """A mask's rows of one branch; one for all stays."""
    return mask if mask is None or mask.ndim < 3 or mask.shape[0] != total else mask[rows]
