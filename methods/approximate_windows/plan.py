"""Approximate windows, as a plan of a sampler's run around whatever else lets frames see each other.

A method in which every frame sees the whole clip (STAM, FFAM, Tune-A-Video's pair, TokenFlow, RAVE) has no exact form
for a clip that does not fit in one call of the U-Net. Here each evaluation is cut into overlapping windows W_n of the
clip, each with the same anchors A beside its own frames, and the answers are blended:

    D(x)_i = sum_n w_n(i) D_method(x[A + W_n])_i,   sum_n w_n(i) = 1

All windows are at one noise level, and every frame has one latent and one noise, so that a window meets its
neighbours again at every step and the anchors are the same latents for all. The answers for anchors that a window only
looks at are dropped. In one window it is the method itself, to the bit; without anything that lets frames see each
other it does nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import Tensor

from ..attachment import Attachment, BlockSite
from ..sampling_plan import Calls, PlannedRun, Replacement, RunFacts, SamplingPlan, SourcePrompt, in_chunks
from .windows import Window, anchors_of, windows_of


@dataclass(frozen=True)
class ApproximateWindows:
    """Settings of the windows.

    Args:
        length: frames of a window.
        overlap: frames that neighbouring windows share at the least.
        anchors: which frames all windows see: one of ``windows.ANCHORS``.
        keyframes: how many, for "keyframes".
        inner: the plan that is cut; None where what lets frames see each other has none.

    Raises:
        ValueError: a setting outside of its range.
    """

    length: int = 16
    overlap: int = 4
    anchors: str = "first"
    keyframes: int = 4
    inner: SamplingPlan | None = None

    cuts_clip, acts, apart = True, True, ""

    def __post_init__(self) -> None:
        windows_of(1, self.length, self.overlap)
        anchors_of(1, self.anchors, self.keyframes)

    def __deepcopy__(self, memo: dict) -> ApproximateWindows:
        # Immutable: hosts deep-copy the options of a model on every clone.
        return self

    def around(self, inner: SamplingPlan | None) -> ApproximateWindows:
        """These windows around another plan."""
        return replace(self, inner=inner)

    def in_part(self, frames: int, ids: Sequence[int], anchors: Sequence[int]) -> SamplingPlan:
        """Windows are not cut again."""
        raise ValueError("model: has Approximate Windows twice; remove one of them.")

    @property
    def name(self) -> str:
        """Of the method within, where it has a plan."""
        return "Approximate Windows" if self.inner is None else self.inner.name

    @property
    def grid(self) -> int:
        """As within."""
        return 1 if self.inner is None else self.inner.grid

    @property
    def chunk(self) -> int:
        """As within."""
        return 0 if self.inner is None else self.inner.chunk

    @property
    def kinds(self) -> tuple[str, ...]:
        """As within."""
        return () if self.inner is None else self.inner.kinds

    @property
    def source(self) -> SourcePrompt | None:
        """As within."""
        return None if self.inner is None else self.inner.source

    @property
    def edits_prompt(self) -> bool:
        """As within."""
        return self.inner is not None and self.inner.edits_prompt

    def cut(self, frames: int) -> list[Window]:
        """The windows of a clip of so many frames."""
        return windows_of(frames, self.length, self.overlap, anchors_of(frames, self.anchors, self.keyframes))

    def reference_frames(self, frames: int) -> tuple[int, ...]:
        """None: anchors are frames of the clip."""
        return ()

    def rows_together(self, frames: int) -> int:
        """The longest window with its anchors."""
        longest = max(len(window.ids) for window in self.cut(frames))
        return longest if self.inner is None else self.inner.rows_together(longest)

    def begin_run(self, facts: RunFacts, sites: frozenset[str]) -> WindowedRun:
        """See ``SamplingPlan.begin_run``."""
        windows = self.cut(facts.frames)
        parts: list[PlannedRun | None] = []
        for window in windows:
            if self.inner is None:
                parts.append(None)
                continue
            here = replace(facts, frames=len(window.ids))
            plan = self.inner if len(windows) == 1 else self.inner.in_part(facts.frames, window.ids, window.anchors)
            parts.append(plan.begin_run(here, sites))
        return WindowedRun(facts, windows, parts)


def build_approximate_windows(sites: Iterable[BlockSite], **config: Any) -> Attachment:
    """Approximate windows on a U-Net. They own no weights and touch no block.

    Args:
        sites: all blocks of the U-Net.
        config: fields of ``ApproximateWindows`` but ``inner``.

    Raises:
        ValueError: a setting outside of its range.
    """
    settings = ApproximateWindows(**config)
    config = {name: value for name, value in asdict(settings).items() if name != "inner"}
    return Attachment("approximate-windows", config, plan=settings)


@dataclass
class PartCalls:
    """``Calls`` of a window: the frames that it counts, 0 and on, are ``ids`` of the clip."""

    calls: Calls
    ids: Sequence[int]
    out_of_memory: tuple[type[BaseException], ...] = field(init=False)

    def __post_init__(self) -> None:
        self.out_of_memory = self.calls.out_of_memory

    @property
    def positive(self) -> Hashable:
        return self.calls.positive

    def __call__(self, x: Tensor, ids: Sequence[int], *, replaced: Replacement | None = None, grid: int = 1,
                 mixing: bool = True, source: bool = False, as_source: bool = False) -> Tensor:
        return self.calls(x, [self.ids[i] for i in ids], replaced=replaced, grid=grid, mixing=mixing, source=source,
                          as_source=as_source)

    def rows_at_once(self, x: Tensor, grid: int, wanted: int) -> int:
        return self.calls.rows_at_once(x, grid, wanted)

    def smaller(self, rows: int, divisible: bool) -> int | None:
        return self.calls.smaller(rows, divisible)

    def to_model_space(self, samples: Tensor) -> Tensor:
        return self.calls.to_model_space(samples)

    def noised(self, samples: Tensor, ids: Sequence[int]) -> Tensor:
        return self.calls.noised(samples, [self.ids[i] for i in ids])


@dataclass(frozen=True)
class WindowedRun:
    """One run of a sampler.

    Args:
        facts: of the run.
        windows: of the clip.
        parts: the run of the plan within, of each window; None where there is none.
    """

    facts: RunFacts
    windows: Sequence[Window]
    parts: Sequence[PlannedRun | None]

    def __call__(self, x: Tensor, sigma: float, calls: Calls) -> Tensor:
        """See ``PlannedRun``."""
        if self.parts[0] is None and not self.facts.whole:
            return in_chunks(calls, x, range(self.facts.frames))
        out: Tensor | None = None
        for window, part in zip(self.windows, self.parts, strict=True):
            ids = list(window.ids)
            here = x if len(self.windows) == 1 else x[ids]
            if part is None:
                answer = in_chunks(calls, here, ids, whole=True)
            else:
                answer = part(here, sigma, PartCalls(calls, ids))
            if len(self.windows) == 1:
                return answer
            if out is None:
                out = answer.new_zeros(self.facts.frames, *answer.shape[1:])
            share = window.weights.to(answer).reshape(-1, *[1] * (answer.ndim - 1))
            out[list(window.frames)] += share * answer[list(window.own)]
        assert out is not None  # a clip has a window
        return out
