"""VIA's gather-swap attention (section 4.2): a group edited first, its keys read by all frames.

The paper edits a few group frames first and stores all their keys and values (gather), then
edits every frame with those in place of its own (swap). Here the group's frames ride along as
extra rows of the batch, reference frames: at each evaluation they go first and fill a
``KeyValueCache``, the clip's frames follow in chunks and read it, and the cache is emptied
(``GatherSwapRun``). The results are the same, and memory depends neither on the number of steps nor
on the length of the clip.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..attachment import BLOCKS, Attachment, BlockSite
from ..sampling_plan import SLACK, Calls, RunFacts, in_chunks
from .group_attention import GroupAttention, KeyValueCache
from .joint_attention import JointGroupAttention

KINDS = ("self", "cross")

#: Stages of a diffusion transformer's blocks, which are all alike.
JOINT = ("double", "single")


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
        painted: LATENT samples of the group's frames as they shall look, one for each of ``frames``: their keys are
            those of the finished pictures at each noise level, not of an edit; None edits them.

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
    painted: Tensor | None = field(default=None, compare=False)

    name, acts, grid, apart, source = "gather-swap", True, 1, "", None
    edits_prompt = cuts_clip = False

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
        if self.painted is not None and len(self.painted) != len(self.frames):
            raise ValueError(f"key_frames: holds {len(self.painted)} frames, but group_frames names "
                             f"{len(self.frames)}; name the number of each, in their order.")
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

    def in_part(self, frames: int, ids: Sequence[int], anchors: Sequence[int]) -> GatherSwap:
        """Refused: it is exact at any length."""
        raise ValueError("model: gather-swap needs no Approximate Windows: it is exact at any length, in memory that "
                         "does not grow with the clip; remove them.")

    def reference_frames(self, frames: int) -> tuple[int, ...]:
        """The group's."""
        return self.group_of(frames)

    def rows_together(self, frames: int) -> int:
        """The group's frames are in one call."""
        return len(self.group_of(frames))

    def begin_run(self, facts: RunFacts, sites: frozenset[str]) -> GatherSwapRun:
        """See ``SamplingPlan.begin_run``."""
        return GatherSwapRun(self, facts, sites)

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
    settings, sites = GatherSwap(**config), list(sites)
    if any(site.stage in JOINT for site in sites):
        if settings.blocks != "all":
            raise ValueError(f"layers: a diffusion transformer has no {settings.blocks!r} stage; choose all.")
        if not settings.self_attention:
            raise ValueError("self_attention: a diffusion transformer has one attention for picture and text, which "
                             "this turns off; turn it on.")
        return Attachment(method="gather-swap", config=asdict(settings), plan=settings,
                          sites=frozenset(site.path for site in sites))  # fmt: skip
    return Attachment(
        method="gather-swap",
        config=asdict(settings),
        sites=frozenset(site.path for site in sites if site.stage in BLOCKS[settings.blocks]),
        plan=settings,
    )


def group_frames(frames: int, group: int) -> tuple[int, ...]:
    """Ids of the group's frames: evenly spread, first and last included; a group of 1 is frame 0.

    Raises:
        ValueError: more group frames than frames.
    """
    if group > frames:
        raise ValueError(f"frames: the clip has {frames}, but all frames look at {group} of them; give {group} frames "
                         f"or more, or set group of Gather-Swap to {frames}.")
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
class GatherSwapRun:
    """One run of a sampler: which rows of its batch are evaluated when.

    The batch is x [F + g]: the clip's F frames, then the group's, with the initial noise of their frames.

    Args:
        settings: of gather-swap.
        facts: of the run.
        sites: paths of the blocks that are touched.

    Raises:
        ValueError: the group does not fit the clip, or the run goes on where an earlier one left the group's frames.
    """

    settings: GatherSwap
    facts: RunFacts
    sites: frozenset[str]
    group: tuple[int, ...] = field(init=False)
    begun: bool = field(default=False, init=False)
    over: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.group = self.settings.reference_frames(self.facts.frames)
        steps, first = self.facts.steps, self.facts.first
        start, stop = round(self.settings.start * steps), round(self.settings.end * steps)
        if start < first < stop:
            raise ValueError(
                f"latent_image: goes on at step {first} of {steps}, but gather-swap's group frames have gone their own "
                f"way since step {start} and ended with the earlier run; sample in one run, or split it at step "
                f"{stop}, where the swap ends.")

    def phase(self, sigma: float) -> str:
        """What the reference frames do in an evaluation at ``sigma``.

        "twin": nothing yet, each is its frame bit by bit. "active": gather. "plain": an ordinary
        evaluation. "over": nothing any more, since no later evaluation asks them.

        Raises:
            ValueError: the sampler went back up to a step that asks them.
        """
        settings, sigmas = self.settings, self.facts.sigmas
        if round(settings.start * self.facts.steps) == 0:
            sigma = min(sigma, float(sigmas[0]))  # churn lifts the first step above the schedule
        if active(sigma, sigmas, settings.start, settings.end):
            if self.over:
                raise ValueError("sampler: goes back to steps that are done, where the group's frames can not follow; "
                                 "use one that goes through the steps once, such as euler or dpmpp_2m.")
            self.begun = True
            return "active"
        # Not from the last step's end on but below it: heunpp2 looks a step ahead and comes back.
        stop = round(settings.end * self.facts.steps)
        self.over = self.over or (self.begun and sigma < (1 - SLACK) * float(sigmas[stop]))
        if self.over:
            return "over"
        # Among frames that see each other a reference frame has no twin.
        return "plain" if self.begun or self.facts.whole else "twin"

    def __call__(self, x: Tensor, sigma: float, calls: Calls) -> Tensor:
        """One evaluation: the reference frames fill a cache, then the clip's frames read it.

        Outside of the chosen steps frames are denoised plainly. Before them a reference frame is given its frame's
        result, which is what it would have got, since it holds the same x; after them no one needs it.
        """
        frames, settings, phase = self.facts.frames, self.settings, self.phase(sigma)
        with KeyValueCache().evaluation() if phase == "active" else nullcontext() as cache:

            def replaced(mode: str) -> GroupAttention | JointGroupAttention | None:
                if cache is None:
                    return None
                # What is finished looks at nothing but itself.
                gather = settings.gather and settings.painted is None
                if any(path.startswith(JOINT) for path in self.sites):
                    return JointGroupAttention(mode, cache, self.sites, gather, settings.own_keys)
                return GroupAttention(mode, cache, settings.kinds, self.sites, gather, settings.own_keys)

            group = None
            if phase == "active" or (phase == "plain" and settings.painted is None):
                # Wherever the sampler has led these rows: a finished picture is known at every noise level.
                rows = x[frames:] if settings.painted is None else calls.noised(settings.painted, self.group)
                # Without what mixes frames: that is made for a clip's neighbouring frames, never for a group.
                group = in_chunks(calls, rows, self.group, whole=True, replaced=replaced("gather"), mixing=False)
            clip = in_chunks(calls, x[:frames], range(frames), settings.chunk, whole=self.facts.whole,
                             replaced=replaced("swap"))
        return torch.cat([clip, clip[list(self.group)] if group is None else group])
