"""Gather-swap during one run of a sampler: which rows are evaluated when, and how many in one call.

The sampler sees x [F + g]: the clip's frames first, then the lanes. Nothing here outlives the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import comfy.model_management
import torch

from ...methods.via.gather_swap import Bank, GatherSwap, active
from .lanes_conds import Conditions, cut_to, with_own_names
from .lanes_noise import LaneNoise

if TYPE_CHECKING:
    from comfy.model_base import BaseModel
    from torch import Tensor

RUN = "steadyedit_lane_run"
CALL = "steadyedit_lane_call"
FRAME_IDS = "steadyedit_frame_ids"

#: Frames in a call where the user leaves it to us: about as many as keep a GPU busy, so that memory does not grow
#: with the clip. A power of two less where memory is short.
MOST_FRAMES = 16


@dataclass(frozen=True)
class LanePass:
    """What a call of the U-Net is to gather-swap; rides in its transformer options.

    Args:
        mode: "gather" for the lanes, "swap" for frames.
        bank: keys and values of the evaluation under way.
        settings: of the run.
        rows: frames or lanes in the batch, per condition.
        sites: paths of the blocks that are touched.
    """

    mode: str
    bank: Bank
    settings: GatherSwap
    rows: int
    sites: frozenset[str]


@dataclass
class LaneRun:
    """One run of a sampler.

    Args:
        settings, sites: of the attachment.
        frames: F.
        group: the frame of each lane.
        sigmas: of the run, [steps + 1], descending.
        whole: something attached mixes frames: all of them must be in one call.
    """

    settings: GatherSwap
    sites: frozenset[str]
    frames: int
    group: tuple[int, ...]
    sigmas: Tensor
    whole: bool
    noise: LaneNoise = field(init=False)
    begun: bool = field(default=False, init=False)
    over: bool = field(default=False, init=False)
    automatic: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.noise = LaneNoise(self.frames, self.group)
        self.sigmas = self.sigmas.detach().double().cpu()

    def __deepcopy__(self, memo: dict) -> LaneRun:
        # Packs copy the options that this rides in; it is still the same run.
        return self

    @property
    def ids(self) -> tuple[int, ...]:
        """The frame of every row."""
        return (*range(self.frames), *self.group)

    def phase(self, sigma: float) -> str:
        """What the lanes do in an evaluation at ``sigma``.

        "twin": nothing yet, each is its frame bit by bit. "active": gather. "plain": an ordinary
        evaluation. "over": nothing any more, since no later evaluation asks them.

        Raises:
            ValueError: the sampler went back up to a step that asks the lanes.
        """
        lanes, steps = self.settings, len(self.sigmas) - 1
        if round(lanes.start * steps) == 0:
            sigma = min(sigma, float(self.sigmas[0]))  # churn lifts the first step above the schedule
        if active(sigma, self.sigmas, lanes.start, lanes.end):
            if self.over:
                raise ValueError("sampler: goes back to steps that are done, where the group's frames can not follow; "
                                 "use one that goes through the steps once, such as euler or dpmpp_2m.")
            self.begun = True
            return "active"
        # Not from the last step's end on but below it: heunpp2 looks a step ahead and comes back.
        self.over = self.over or (self.begun and sigma < (1 - 1e-4) * float(self.sigmas[round(lanes.end * steps)]))
        if self.over:
            return "over"
        # Among frames that see each other a lane has no twin.
        return "plain" if self.begun or self.whole else "twin"

    def evaluate(
        self, executor: Callable, model: BaseModel, conds: Sequence[Conditions | None], x: Tensor, timestep: Tensor,
        options: Mapping[str, Any],
    ) -> list[Tensor]:
        """One evaluation of the denoiser: ``calc_cond_batch`` on x [F + g], a result for every entry of ``conds``."""
        frames, conds, phase = self.frames, with_own_names(conds), self.phase(float(timestep[0]))
        lanes, out = slice(frames, len(x)), [torch.empty_like(x) for _ in conds]

        def call(ids: Sequence[int], rows: slice, mode: str, bank: Bank) -> None:
            # A clip's step can take minutes, and the host asks only between steps.
            comfy.model_management.throw_exception_if_processing_interrupted()
            lane_pass = LanePass(mode, bank, self.settings, len(ids), self.sites) if phase == "active" else None
            with cut_to(conds, ids) as cut:
                results = executor(model, cut, x[rows], timestep[rows], call_options(options, ids, lane_pass))
            for held, result in zip(out, results, strict=True):
                held[rows] = result

        with self.noise.paused(), Bank().evaluation() as bank:
            if phase in ("active", "plain"):
                call(self.group, lanes, "gather", bank)
            for ids in self.chunks(model, conds, x):
                call(ids, slice(ids[0], ids[-1] + 1), "swap", bank)
        if phase in ("twin", "over"):
            for held in out:
                held[lanes] = held[list(self.group)] if phase == "twin" else x[lanes]
        return out

    def chunks(self, model: BaseModel, conds: Sequence[Conditions | None], x: Tensor) -> Iterator[range]:
        """The frames, as many in a row as go into one call."""
        size = self.frames if self.whole else self.settings.chunk or self.automatic_chunk(model, conds, x)
        for start in range(0, self.frames, size):
            yield range(start, min(start + size, self.frames))

    def automatic_chunk(self, model: BaseModel, conds: Sequence[Conditions | None], x: Tensor) -> int:
        """Frames in a call, asked of the host once a run."""
        if self.automatic is None:
            self.automatic = rows_that_fit(model, conds, x, MOST_FRAMES)
        return self.automatic


def rows_that_fit(model: BaseModel, conds: Sequence[Conditions | None], x: Tensor, most: int) -> int:
    """Rows of x that the host would take with all conditions in one call, by its own estimate; at most ``most``."""
    branches = max(1, sum(len(conditions or ()) for conditions in conds))
    patcher = model.current_patcher
    free = getattr(patcher, "get_free_memory", comfy.model_management.get_free_memory)(x.device)
    size = most
    while size > 1 and model.memory_required([branches * size, *x.shape[1:]]) * 1.5 >= free:
        size //= 2
    return size


def call_options(options: Mapping[str, Any], ids: Sequence[int], lane_pass: LanePass | None) -> dict[str, Any]:
    """Model options of one call, which name its frames and what it is to gather-swap; the given ones stay."""
    inner = {**options["transformer_options"], FRAME_IDS: tuple(ids), CALL: lane_pass}
    return {**options, "transformer_options": inner}
