"""Guidance of a batch with reference frames in it: guidance functions and hooks see a clip's frames, in order.

Some of them look along the batch (a scale for each frame, a mean over all). So they are given F rows: once the clip,
and once the clip with the reference frames in their frames' places, whose other rows are thrown away. For the second
they are copies with variables of their own, since some keep a state from step to step. What a sampler adds for itself
(the cfg_pp kind) needs all rows and is given them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import CellType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

PRE, CFG, POST = "sampler_pre_cfg_function", "sampler_cfg_function", "sampler_post_cfg_function"


@dataclass
class GuidedRows:
    """The guidance of one run.

    Args:
        frames: F, of the clip.
        group: the frame of each row that rides along.
        method: for sentences.
    """

    frames: int
    group: tuple[int, ...]
    method: str
    replays: bool = field(default=False, init=False)
    _x: Tensor | None = field(default=None, init=False)
    _recorded: list[list[Tensor]] = field(default_factory=list, init=False)
    _replayed: Iterator[list[Tensor]] = field(default_factory=lambda: iter(()), init=False)
    _places: dict[int, int] = field(default_factory=dict, init=False)
    _own: list[dict[str, Any]] = field(default_factory=list, init=False)
    _known: list[Callable] = field(default_factory=list, init=False)

    def begin(self, options: dict[str, Any]) -> None:
        """Note the hooks of the MODEL, ahead of those that the sampler adds; ``options`` are the run's."""
        self._known = list(options.get(POST, ()))
        self._own = [copied_hooks(options) for _ in rounds(self.group)]

    def with_rows(self, x: Tensor) -> Tensor:
        """x [F] of an evaluation with the rows that ride along behind it.

        Raises:
            ValueError: it is not the clip that the sampler holds.
        """
        if len(x) != self.frames:
            raise ValueError(f"model: another node gives {self.method} {len(x)} of the clip's {self.frames} frames "
                             "at a time (context windows); remove it, since the clip is split into chunks already.")
        if not self.group:
            return x
        if self._x is None or not (x.data_ptr() == self._x.data_ptr() or torch.equal(x, self._x[: self.frames])):
            raise ValueError(f"model: another node asks the model about other latents than the sampler's, which the "
                             f"group frames of {self.method} can not follow; remove that kind of guidance.")
        return self._x

    def record(self, results: list[Tensor]) -> list[Tensor]:
        """Keep the results of all rows [F + g]; returns those of the clip."""
        if not self.group:
            return results
        self._recorded.append(results)
        return [result[: self.frames] for result in results]

    def replay(self) -> list[Tensor]:
        """Results for the clip with reference frames in their frames' places."""
        try:
            results = next(self._replayed)
        except StopIteration:
            raise ValueError(f"model: a guidance evaluates the model another number of times for each frame, which "
                             f"does not go with {self.method}; remove it.") from None
        return [self._placed(result) for result in results]

    def _placed(self, whole: Tensor) -> Tensor:
        """[F + g] as [F]: the clip, with some reference frames in their frames' places."""
        out = whole[: self.frames].clone()
        for row, frame in self._places.items():
            out[frame] = whole[self.frames + row]
        return out

    def guide(self, executor: Callable, x: Tensor, timestep: Tensor, options: dict[str, Any], seed: Any) -> Tensor:
        """The guided x_0 of all rows of x [F + g]."""
        own = [fn for fn in options.get(POST, ()) if fn not in self._known]
        try:
            self._x, self._recorded = x, []
            out, hook_args = self._pass(executor, x[: self.frames], timestep, options, own, {}, seed)
            parts, each_pass = [out], [hook_args]
            for places, hooks in zip(rounds(self.group), self._own, strict=True):
                self._places, self.replays, self._replayed = places, True, iter(self._recorded)
                guided, hook_args = self._pass(executor, self._placed(x), timestep, options, own, hooks, seed)
                frames = list(places.values())
                parts.append(guided[frames])
                each_pass.append({key: value[frames] if self._per_frame(value) else value
                                  for key, value in hook_args.items()})
        finally:
            self._x, self._recorded, self.replays = None, [], False
        order = [row for places in rounds(self.group) for row in places]
        out = self._joined(parts, order)
        for hook in own if each_pass[0] else ():  # a guider of its own may call none
            args = {key: self._joined([one[key] for one in each_pass], order) if self._per_frame(value) else value
                    for key, value in each_pass[0].items()}
            out = hook({**args, "denoised": out, "input": x, "sigma": timestep})
        return out

    def _pass(self, executor: Callable, x: Tensor, timestep: Tensor, options: dict[str, Any], own: list[Callable],
              hooks: dict[str, Any], seed: Any) -> tuple[Tensor, dict[str, Any]]:
        """F rows guided with the MODEL's hooks, or the copies of them in ``hooks``, and what a hook behind them is
        given."""
        hook_args: dict[str, Any] = {}

        def keep_args(args: dict[str, Any]) -> Tensor:
            hook_args.update(args)
            return args["denoised"]

        options = {**options, **hooks}
        post = hooks.get(POST, [fn for fn in options.get(POST, ()) if fn not in own])
        if own or post:
            options[POST] = [*post, keep_args] if own else post
        return executor(x, timestep[: self.frames], options, seed), hook_args

    def _per_frame(self, value: Any) -> bool:
        return isinstance(value, torch.Tensor) and value.ndim > 1 and len(value) == self.frames

    @staticmethod
    def _joined(parts: Sequence[Tensor], order: Sequence[int]) -> Tensor:
        """The clip's rows, then those that ride along, brought from the rounds' order into their own."""
        clip, *rest = parts
        rows = torch.cat(rest)
        return torch.cat([clip, rows[[order.index(row) for row in range(len(order))]]])


def rounds(group: Sequence[int]) -> list[dict[int, int]]:
    """Reference rows by the frame whose place they take, row to frame: as few rounds as let each frame be once."""
    found: list[dict[int, int]] = []
    for row, frame in enumerate(group):
        free = next((places for places in found if frame not in places.values()), None)
        if free is None:
            found.append(free := {})
        free[row] = frame
    return found


def copied_hooks(options: dict[str, Any]) -> dict[str, Any]:
    """The guidance function and hooks of a MODEL with variables of their own; those that share some still do."""
    memo: dict[int, Any] = {}
    found: dict[str, Any] = {key: [copied(fn, memo) for fn in options[key]] for key in (PRE, POST) if options.get(key)}
    if CFG in options:
        found[CFG] = copied(options[CFG], memo)
    return found


def copied(function: Any, memo: dict[int, Any]) -> Any:
    """A function with copies of the variables that it closes over, a bound method with a copy of its object."""
    if id(function) in memo:
        return memo[id(function)]
    if isinstance(function, MethodType):
        owner = memo.setdefault(id(function.__self__), copy.copy(function.__self__))
        made: Any = MethodType(function.__func__, owner)
    elif not isinstance(function, FunctionType):
        made = copy.copy(function)
    elif function.__closure__ is None:
        made = function
    else:
        cells = tuple(copied_cell(cell, memo) for cell in function.__closure__)
        made = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
        made.__kwdefaults__ = function.__kwdefaults__
    memo[id(function)] = made
    return made


def copied_cell(cell: CellType, memo: dict[int, Any]) -> CellType:
    """A variable of a closure, with its value; lists and dicts are copied, since they are changed in place."""
    if id(cell) not in memo:
        try:
            value = cell.cell_contents
        except ValueError:  # not yet set
            memo[id(cell)] = CellType()
            return memo[id(cell)]
        memo[id(cell)] = CellType(copy.copy(value) if isinstance(value, (list, dict, set)) else value)
    return memo[id(cell)]
