"""What a method does to a run of a sampler: a plan, which the method owns and every host carries out.

A host samples the clip's frames and, behind them, the rows that ride along (``SamplingPlan.reference_frames``). Each
evaluation of the denoiser it hands to the plan's run, which splits it into calls of the U-Net and says of each call
which frames its rows stand for and what it has in the place of the blocks' own attentions. How a call is made, with
which conditions and in what memory, is the host's alone (``Calls``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from ..kernels.group_attention import swap_attention
from .out_of_memory import ran_out

if TYPE_CHECKING:
    from torch import Tensor


log = logging.getLogger(__name__)

#: Two sigmas that differ by less, relatively, are one: far above float32's rounding, far below a step of the schedule.
SLACK = 1e-4


class Replacement:
    """What one call of the U-Net has in the place of its own parts. This one replaces nothing.

    Args of a subclass, as attributes:
        sites: LDM paths of the transformer blocks whose attentions are replaced.
        kinds: which of them, "self" or "cross".
        residuals: LDM paths of the residual blocks whose branch is replaced, before its sum with the skip.
        reads_input: ``attention`` is given the attention's input too.
        exchanges: queries, keys and values of self-attention go through ``exchange`` first. Whoever mixes frames in
            it still does, with what comes out.
    """

    sites: frozenset[str] = frozenset()
    kinds: tuple[str, ...] = ()
    residuals: frozenset[str] = frozenset()
    reads_input: bool = False
    exchanges: bool = False

    def attention(self, path: str, kind: str, q: Tensor, k: Tensor, v: Tensor, heads: int,
                  branches: tuple[Hashable, ...], x: Tensor | None = None) -> Tensor:
        """In place of softmax(QK^T / sqrt d) V inside one attention.

        Args:
            path: LDM path of the block.
            kind: "self" or "cross".
            q: [branches * rows, tokens, heads * d], projected; k, v: [branches * rows, keys, heads * d].
            branches: identities of the conditions in the batch, in its order.
            x: what q was projected from, [branches * rows, tokens, channels], where ``reads_input``.

        Returns:
            Shaped like q, before the output projection.
        """
        raise NotImplementedError

    def exchange(self, path: str, q: Tensor, k: Tensor, v: Tensor,
                 branches: tuple[Hashable, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """What goes into a self-attention in the place of q, k, v, each [branches * rows, tokens, heads * d]."""
        raise NotImplementedError

    def exchanged(self, path: str, q: Tensor, k: Tensor, v: Tensor, heads: int,
                  branches: tuple[Hashable, ...]) -> Tensor:
        """Self-attention of what ``exchange`` gives, each frame by itself."""
        return swap_attention(*self.exchange(path, q, k, v, branches), heads, len(q))

    def residual(self, path: str, h: Tensor, branches: tuple[Hashable, ...]) -> Tensor:
        """In place of h [branches * rows, channels, height, width], which a residual block adds to its skip."""
        raise NotImplementedError


class Calls(Protocol):
    """The host's denoiser at one noise level.

    ``out_of_memory`` are the exceptions by which memory's end is known, ``positive`` is the identity of the positive
    condition among the branches.
    """

    out_of_memory: tuple[type[BaseException], ...]

    @property
    def positive(self) -> Hashable: ...

    def __call__(self, x: Tensor, ids: Sequence[int], *, replaced: Replacement | None = None, grid: int = 1,
                 mixing: bool = True, source: bool = False, as_source: bool = False) -> Tensor:
        """Denoised rows, of every condition of the guidance side by side in dimension 1, or guided.

        Args:
            x: [rows, channels, h, w] in sigma space.
            ids: the frame of every row; with ``grid`` > 1 of every place of every row, row by row.
            replaced: see ``Replacement``.
            grid: frames a side of the picture that a row is.
            mixing: whether attached modules that let rows see each other are at work.
            source: under the source's condition alone, without ControlNets.
            as_source: with the source's text in the place of the positive condition's, all else as it is.
        """

    def rows_at_once(self, x: Tensor, grid: int, wanted: int) -> int:
        """Rows for one call: ``wanted``, or where that is 0 what memory and device like."""

    def smaller(self, rows: int, divisible: bool) -> int | None:
        """After memory ran out with so many rows: how many to try next; None: give up."""

    def to_model_space(self, samples: Tensor) -> Tensor:
        """LATENT samples in the scale, on the device and in the type of x."""

    def noised(self, samples: Tensor, ids: Sequence[int]) -> Tensor:
        """LATENT samples at this noise level, in sigma space, with the noise that the run began with for the frames
        ``ids``. Raises ValueError (one sentence) where it began with none, or they are of another size."""


@dataclass(frozen=True)
class RunFacts:
    """What a plan is told of a run.

    Args:
        frames: of the clip.
        sigmas: noise levels of the whole schedule, [steps + 1], descending, float64 on the CPU.
        first: the step at which this run begins in it; more than 0 where it goes on with an earlier run.
        whole: something attached lets frames see each other, so that they must not be parted.
    """

    frames: int
    sigmas: Tensor
    first: int = 0
    whole: bool = False

    @property
    def steps(self) -> int:
        """Of the whole schedule."""
        return len(self.sigmas) - 1

    def step_of(self, sigma: float) -> int:
        """The number of an evaluation's step in the whole schedule: how many noise levels lie above ``sigma``.

        It hangs on sigma alone, so that branches of the guidance that arrive in calls of their own have one answer,
        and Heun's second evaluation of a step has that of the next step, at whose level it is.
        """
        return int((self.sigmas > sigma * (1 + SLACK)).sum())


class PlannedRun(Protocol):
    """A plan at work in one run: ``run(x, sigma, calls)`` evaluates x [frames + reference frames, ...] at ``sigma``
    and returns a row for each of its rows, in the same order."""

    def __call__(self, x: Tensor, sigma: float, calls: Calls) -> Tensor: ...


class SourcePrompt(Protocol):
    """What a plan asks the model about the source with: its CONDITIONING."""

    @property
    def conditioning(self) -> Any: ...


class SamplingPlan(Protocol):
    """What a method does to a run of a sampler. Immutable."""

    @property
    def name(self) -> str:
        """Of the method, for sentences."""

    @property
    def acts(self) -> bool:
        """Whether it does anything with its settings."""

    @property
    def grid(self) -> int:
        """Frames a side of the pictures that calls get; 1: frames are not put together."""

    @property
    def chunk(self) -> int:
        """Rows of a call; 0 leaves it to the host."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Attentions that its calls replace."""

    @property
    def apart(self) -> str:
        """Why no other method may let frames see each other beside it, as the end of "the method ..."; empty: it
        may."""

    @property
    def source(self) -> SourcePrompt | None:
        """What the source is evaluated under, where it is during the run."""

    @property
    def edits_prompt(self) -> bool:
        """It knows the words of the positive condition, which has to be one text for all frames, and exchanges what
        goes into self-attention."""

    @property
    def cuts_clip(self) -> bool:
        """It cuts the clip into windows, approximately, for another plan or for what lets frames see each other; see
        ``approximate_windows``."""

    def in_part(self, frames: int, ids: Sequence[int], anchors: Sequence[int]) -> SamplingPlan:
        """The plan for a window of a clip of so many frames.

        Args:
            frames: of the clip.
            ids: of the window, ascending, anchors among them.
            anchors: frames that all windows see, which are not the window's own.

        Raises:
            ValueError: one sentence where a window makes no sense for it.
        """

    def reference_frames(self, frames: int) -> tuple[int, ...]:
        """The frame of every row that rides along behind a clip of so many frames. Each has its own frame's noise and
        goes its own way through the sampler. Raises ValueError (one sentence) where the clip does not fit."""

    def rows_together(self, frames: int) -> int:
        """The fewest rows that one of its calls must hold."""

    def begin_run(self, facts: RunFacts, sites: frozenset[str]) -> PlannedRun:
        """Begin a run. Raises ValueError where it can not be exact."""


def plan_of(attachments: Sequence[Any]) -> tuple[SamplingPlan, frozenset[str]] | None:
    """The plan among attachments, with the blocks that it touches; None where there is none, or it does nothing.

    Windows go around the plan that is cut, whichever was attached first.
    """
    acting = [a for a in attachments if a.plan is not None and a.plan.acts]
    found = next((a for a in acting if not a.plan.cuts_clip), None)
    windows = next((a.plan for a in acting if a.plan.cuts_clip), None)
    if windows is not None:
        return (windows, frozenset()) if found is None else (windows.around(found.plan), found.sites)
    return None if found is None else (found.plan, found.sites)


def in_chunks(calls: Calls, x: Tensor, ids: Sequence[int], wanted: int = 0, *, whole: bool = False, grid: int = 1,
              before: Callable[[Sequence[int]], Any] | None = None, **how: Any) -> Tensor:
    """Denoised rows, as many in a call as fit, fewer where memory runs out.

    Args:
        calls: of the host.
        x: [rows, ...]; ids: the frame of every place of every row.
        wanted: rows in a call; 0 leaves it to the host.
        whole: all rows in one call.
        before: called with the frames of each call ahead of it.
        how: for ``calls``.
    """
    places, parts, start = len(ids) // len(x), [], 0
    size = len(x) if whole else calls.rows_at_once(x, grid, wanted)
    while start < len(x):
        here = ids[start * places : (start + size) * places]
        try:
            if before is not None:
                before(here)
            parts.append(calls(x[start : start + size], here, grid=grid, **how))
        except Exception as error:
            smaller = calls.smaller(min(size, len(x)), not whole) if ran_out(error, calls.out_of_memory) else None
            if smaller is None:
                raise
            log.warning("memory ran out with %d frames in a call; trying %d, which changes no result",
                        min(size, len(x)) * grid**2, smaller * grid**2)
            size = smaller
        else:
            start += size
    return parts[0] if len(parts) == 1 else torch.cat(parts)
