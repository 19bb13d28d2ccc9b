"""VIA's gather-swap attention (section 4.2), in lock-step.

The paper edits a few group frames first and stores all their keys and values (gather), then
edits every frame with those in place of its own (swap). Here the group's frames ride along as
extra rows of the batch, lanes: at each evaluation the lanes go first and fill a ``Bank``, the
clip's frames follow in chunks and read it, and the bank is emptied. The results are the same,
and memory depends neither on the number of steps nor on the length of the clip.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...kernels.group_attention import cross_frame_attention, gather_attention, swap_attention
from ..attachment import BLOCKS, Attachment, BlockSite

KINDS = ("self", "cross")
#: Two sigmas that differ by less, relatively, are one: far above float32's rounding, far below a step of the schedule.
SLACK = 1e-4


@dataclass(frozen=True)
class GatherSwap:
    """Settings of gather-swap; the defaults are the paper's.

    Args:
        group: number of group frames, evenly spread over the clip.
        frames: numbers of the group's frames, chosen by hand; empty spreads ``group`` of them.
        self_attention, cross_attention: which attentions are swapped. With one text for all
            frames the swap of cross-attention changes nothing.
        start, end: share of the sampling steps (the paper: the first 8 of 10).
        blocks: "all", "down", "middle" or "up".
        chunk: frames in a call of the U-Net; 0 leaves it to the host.
        gather: False lets the group's frames keep their own keys (for ablation).
        own_keys: True lets every frame see its own keys beside the group's (Fairy's
            cross-frame attention, for comparison).

    Raises:
        ValueError: a setting outside of its range.
    """

    group: int = 4
    frames: tuple[int, ...] = ()
    self_attention: bool = True
    cross_attention: bool = True
    start: float = 0.0
    end: float = 0.8
    blocks: str = "all"
    chunk: int = 0
    gather: bool = True
    own_keys: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "frames", tuple(self.frames))  # a list, where it comes from a file
        if self.group < 1:
            raise ValueError(f"group: expected 1 frame or more, but got {self.group}.")
        if self.chunk < 0:
            raise ValueError(f"chunk: expected 0 (all that memory allows) or a number of frames, but got {self.chunk}.")
        if not 0 <= self.start < self.end <= 1:
            raise ValueError(f"start, end: expected 0 <= start < end <= 1, but got {self.start} and {self.end}.")
        if self.blocks not in BLOCKS:
            raise ValueError(f"blocks: expected one of {', '.join(BLOCKS)}, but got {self.blocks!r}.")
        if not self.kinds:
            raise ValueError("self_attention, cross_attention: both are off, so that nothing is swapped; turn one on.")

    @property
    def kinds(self) -> tuple[str, ...]:
        """"self", "cross", or both."""
        chosen = (self.self_attention, self.cross_attention)
        return tuple(kind for kind, on in zip(KINDS, chosen, strict=True) if on)

    def group_of(self, frames: int) -> tuple[int, ...]:
        """The group's frames in a clip of so many.

        Raises:
            ValueError: there are not so many frames.
        """
        if not self.frames:
            return group_frames(frames, self.group)
        if min(self.frames) < 0 or max(self.frames) >= frames:
            raise ValueError(f"group_frames: {', '.join(map(str, self.frames))} are not all in 0..{frames - 1}, the "
                             "frames of the clip; name others, or none to spread the group evenly.")
        return self.frames

    def __deepcopy__(self, memo: dict) -> GatherSwap:
        # Immutable: hosts deep-copy the options of a model on every clone.
        return self


def build_gather_swap(sites: Iterable[BlockSite], **config: Any) -> Attachment:
    """Gather-swap in the blocks that the settings name. It owns no weights.

    Args:
        sites: all blocks of the U-Net.
        config: fields of ``GatherSwap``.

    Raises:
        ValueError: a setting outside of its range.
    """
    settings = GatherSwap(**config)
    return Attachment(
        method="gather-swap",
        config=asdict(settings),
        sites=frozenset(site.path for site in sites if site.stage in BLOCKS[settings.blocks]),
        lanes=settings,
    )


def group_frames(frames: int, group: int) -> tuple[int, ...]:
    """Ids of the group's frames: evenly spread, first and last included; a group of 1 is frame 0.

    Raises:
        ValueError: more group frames than frames.
    """
    if group > frames:
        raise ValueError(f"group: {group} frames are more than the clip's {frames}; choose at most {frames}.")
    if group == 1:
        return (0,)
    # Rounded half up in whole numbers, so that no id hangs on a float.
    return tuple((2 * i * (frames - 1) + group - 1) // (2 * (group - 1)) for i in range(group))


def active(sigma: float, sample_sigmas: Tensor, start: float = 0.0, end: float = 0.8) -> bool:
    """Whether an evaluation at ``sigma`` belongs to the steps round(start n) .. round(end n) - 1.

    It does for sigma_{round(end n)} < sigma <= sigma_{round(start n)}, up to rounding errors;
    above the first step's sigma, where some samplers look, it belongs to that step. An
    evaluation belongs to steps by its sigma alone, so that Heun's second one, at the next
    step's sigma, has one answer.

    Args:
        sigma: noise level of the evaluation.
        sample_sigmas: of the whole run, [n + 1], descending.
        start, end: shares of the n steps.
    """
    steps = len(sample_sigmas) - 1
    first, stop = round(start * steps), round(end * steps)
    if first >= stop:
        return False
    highest = float("inf") if first == 0 else float(sample_sigmas[first]) * (1 + SLACK)
    return float(sample_sigmas[stop]) * (1 + SLACK) < sigma <= highest


@dataclass
class Bank:
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
    def evaluation(self) -> Iterator[Bank]:
        """Empty before and after one evaluation of the denoiser, also where it fails."""
        self.clear()
        try:
            yield self
        finally:
            self.clear()


@dataclass(frozen=True)
class LaneCall:
    """One call of the U-Net within gather-swap.

    Args:
        mode: "gather", where the batch is [branches * group] and fills the bank, or "swap",
            where it is [branches * frames of a chunk] and reads it.
        branches: identities of the conditions in the batch, in its order.
        bank: shared by the calls of one evaluation.
        settings: of the run.
    """

    mode: str
    branches: tuple[Hashable, ...]
    bank: Bank
    settings: GatherSwap

    def attention(self, path: str, kind: str, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """In place of softmax(QK^T / sqrt d) V inside one attention.

        Args:
            path: LDM path of the block.
            kind: "self" or "cross".
            q: [branches * rows, tokens, heads * d], projected.
            k, v: the rows' own, [branches * rows, keys, heads * d].

        Returns:
            Shaped like q, before the output projection.
        """
        n = len(self.branches)
        if self.mode == "gather":
            for branch, k_, v_ in zip(self.branches, k.chunk(n), v.chunk(n), strict=True):
                self.bank.put(branch, path, kind, k_, v_)
            if self.settings.gather:
                return gather_attention(q, k, v, heads, n)
            return swap_attention(q, k, v, heads, len(q))  # as many branches as rows: each its own keys
        parts = []
        for branch, *own in zip(self.branches, q.chunk(n), k.chunk(n), v.chunk(n), strict=True):
            # One branch at a time, so that the bank's keys are read where they lie.
            # A host with several devices may give a branch another one than in the group's turn.
            group = [x.to(q.device) for x in self.bank.get(branch, path, kind)]
            if self.settings.own_keys:
                parts.append(cross_frame_attention(*own, *group, heads, 1))
            else:
                parts.append(swap_attention(own[0], *group, heads, 1))
        return parts[0] if n == 1 else torch.cat(parts)
