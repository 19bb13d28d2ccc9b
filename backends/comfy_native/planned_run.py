"""A method's plan during one run of a sampler: how the host makes the calls that it asks for.

The sampler sees x [F + g]: the clip's frames first, then the plan's reference frames. Nothing here outlives the run.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import comfy.model_management
import torch

from ...methods.sampling_plan import PlannedRun, Replacement
from .frame_conditions import Conditions, for_rows, rows_of, shapes_of, with_own_names, with_text_of
from .guidance import GuidedRows
from .row_noise import RowNoise
from .state import without_mixing

if TYPE_CHECKING:
    from comfy.model_base import BaseModel
    from torch import Tensor

RUN = "steadyedit_run"
CALL = "steadyedit_call"
FRAME_IDS = "steadyedit_frame_ids"

#: Frames in a call where the user leaves it to us: about as many as keep a GPU busy, so that memory does not grow
#: with the clip. A power of two less where memory is short.
MOST_FRAMES = 16


@dataclass(frozen=True)
class PlannedCall:
    """What a call of the U-Net is to a plan; rides in its transformer options.

    Args:
        replaced: what it has in the place of the blocks' own parts.
        rows: in the batch, per condition.
        method: for sentences.
    """

    replaced: Replacement
    rows: int
    method: str


@dataclass
class HostRun:
    """One run of a sampler.

    Args:
        method: the plan's name.
        planned: the plan at work.
        frames: F.
        group: the frame of each row that rides along.
        source: processed conditions of the source; None where the plan reads none.
        positive: identity of the positive condition; None where it is not one.
        start: the noise that the run began with, [F, ...].
    """

    method: str
    planned: PlannedRun
    frames: int
    group: tuple[int, ...]
    source: Conditions | None = None
    positive: Hashable = None
    start: Tensor | None = None
    noise: RowNoise = field(init=False)
    guided: GuidedRows = field(init=False)
    automatic: dict[int, int] = field(default_factory=dict, init=False)
    evaluations: int = field(default=0, init=False)
    hints: dict[Hashable, Tensor] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.noise = RowNoise(self.frames, self.group)
        self.guided = GuidedRows(self.frames, self.group, self.method)

    def __deepcopy__(self, memo: dict) -> HostRun:
        # Packs copy the options that this rides in; it is still the same run.
        return self

    @property
    def ids(self) -> tuple[int, ...]:
        """The frame of every row."""
        return (*range(self.frames), *self.group)

    def evaluate(
        self, executor: Callable, model: BaseModel, conds: Sequence[Conditions | None], x: Tensor, timestep: Tensor,
        options: Mapping[str, Any],
    ) -> list[Tensor]:
        """One evaluation of the denoiser: ``calc_cond_batch`` on the clip's x [F], a result for every entry of
        ``conds``; the rows that ride along come and go by ``guided``."""
        if self.guided.replays:
            return self.guided.replay()
        whole = self.guided.with_rows(x)
        self.evaluations += 1
        calls = HostCalls(self, executor, model, with_own_names(conds), x, timestep, options)
        paused = self.noise.paused() if self.group else _Nothing()
        with paused:
            results = self.planned(whole, float(timestep[0]), calls).split(x.shape[1], 1)
        return self.guided.record(list(results))


class _Nothing:
    """A ``with`` that does nothing."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: Any) -> None:
        return None


@dataclass
class HostCalls:
    """``methods.sampling_plan.Calls`` on the host's ``calc_cond_batch``."""

    run: HostRun
    executor: Callable
    model: BaseModel
    conds: Sequence[Conditions | None]
    x: Tensor
    timestep: Tensor
    options: Mapping[str, Any]
    # Not the host's OOM_EXCEPTION, which is plain Exception where torch has no CUDA.
    out_of_memory: tuple[type[BaseException], ...] = (torch.OutOfMemoryError,)

    @property
    def positive(self) -> Hashable:
        return self.run.positive

    def __call__(self, x: Tensor, ids: Sequence[int], *, replaced: Replacement | None = None, grid: int = 1,
                 mixing: bool = True, source: bool = False, as_source: bool = False) -> Tensor:
        # A clip's step can take minutes, and the host asks only between steps.
        comfy.model_management.throw_exception_if_processing_interrupted()
        conds = [self.run.source] if source else self.conds
        if as_source and self.run.source is not None:
            conds = with_text_of(self.run.source[0], self.conds, self.positive)
        call = None if replaced is None else PlannedCall(replaced, len(x), self.run.method)
        options = call_options(self.options, ids, self.run.frames, call, mixing, grid)
        with for_rows(conds, ids, self.run.frames, grid, tuple(self.x.shape[-2:]), self.run.hints) as here:
            results = self.executor(self.model, here, x, self.timestep[:1].expand(len(x)), options)
        # One tensor for the rows of all conditions, side by side in the channels.
        return torch.cat(list(results), 1)

    def rows_at_once(self, x: Tensor, grid: int, wanted: int) -> int:
        """As ``wanted``, or asked of the host once a run."""
        if wanted and not self.run.automatic:
            return wanted
        if grid not in self.run.automatic:
            self.run.automatic[grid] = rows_that_fit(self.model, self._at_work(), x, max(1, MOST_FRAMES // grid**2))
        return min(wanted or MOST_FRAMES, self.run.automatic[grid])

    def _at_work(self) -> list[Conditions | None]:
        """The conditions at this noise level: there may be one for every step."""
        sigma = float(self.timestep[0])

        def works(condition: Mapping[str, Any]) -> bool:
            return condition.get("timestep_end", 0.0) <= sigma <= condition.get("timestep_start", sigma)

        return [None if conditions is None else [c for c in conditions if works(c)] for conditions in self.conds]

    def smaller(self, rows: int, divisible: bool) -> int | None:
        if not divisible or rows == 1:
            return None
        comfy.model_management.soft_empty_cache()
        self.run.automatic = dict.fromkeys(range(1, 9), rows // 2)
        return rows // 2

    def to_model_space(self, samples: Tensor) -> Tensor:
        return self.model.process_latent_in(samples.to(self.x.device, torch.float32)).to(self.x)

    def noised(self, samples: Tensor, ids: Sequence[int]) -> Tensor:
        start = self.run.start
        if samples.shape[1:] != self.x.shape[1:]:
            raise ValueError(f"key_frames: are latents of {list(samples.shape[1:])}, but the clip's are "
                             f"{list(self.x.shape[1:])}; encode pictures of the clip's size with the model's own VAE.")
        if start is None or not start.any():
            raise ValueError("noise: is disabled, so that key_frames can not be brought to the run's noise levels; "
                             "sample in one run that adds noise.")
        noise = rows_of(start, ids).to(self.x)
        sigma = self.timestep[:1].reshape(-1, *[1] * (noise.ndim - 1)).to(self.x)
        return self.model.model_sampling.noise_scaling(sigma, noise, self.to_model_space(samples), False)


def rows_that_fit(model: BaseModel, conds: Sequence[Conditions | None], x: Tensor, most: int) -> int:
    """Rows of x that the host would take with all conditions in one call, by its own estimate; at most ``most``."""
    branches = max(1, sum(len(conditions or ()) for conditions in conds))
    patcher = model.current_patcher
    free = getattr(patcher, "get_free_memory", comfy.model_management.get_free_memory)(x.device)
    every = [condition for conditions in conds for condition in conditions or ()]
    keys, size = getattr(model, "memory_usage_factor_conds", ()), most

    def needed(rows: int) -> float:
        return model.memory_required([branches * rows, *x.shape[1:]], cond_shapes=shapes_of(every, keys, rows)) * 1.5

    while size > 1 and needed(size) >= free:
        size //= 2
    return size


def call_options(options: Mapping[str, Any], ids: Sequence[int], frames: int, call: PlannedCall | None, mixing: bool,
                 grid: int) -> dict[str, Any]:
    """Model options of one call, which name its frames and what it is to the plan; the given ones stay."""
    given = options["transformer_options"]
    inner = {**given, FRAME_IDS: tuple(ids), CALL: call}
    if grid == 1:
        # In the form in which IPAdapter and others ask which of a clip's frames a call holds.
        inner["ad_params"] = {"sub_idxs": list(ids), "full_length": frames, "context_length": len(ids)}
    if not mixing:
        inner.update(without_mixing(given))
    return {**options, "transformer_options": inner}
