"""One piece of work done by this pack and by a peer: equal first, then timed and weighed in turns."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from ..common.clock import clock
from ..common.memory import allocated_peak, peak_memory

Work = Callable[[], Any]


class Absent(Exception):
    """The peer is not on this machine; the text says what it needs."""


@dataclass(frozen=True)
class Contest:
    """Two ways to one result.

    Args:
        work, peer: what is done, and by whom beside this pack.
        ours, theirs: do it once.
        apart: how far both results are apart, or how far ours falls behind, with words that go into the table.
        tolerance: of that.
        unmeasured: the same with everything but what is to be timed, whose time is taken off: loading, set-up.
        share: pieces in a run, such as steps, by which times are divided.
        rounds: turns of each.
        weigh: "tensors", PyTorch's own allocations to the byte; "resident", the process's memory, for what libraries
            allocate besides; or "" where a run is too long for either.
        closing: ends what the work left open.
        floor: what both have to do in any case, timed beside them: the network's calls alone.
    """

    work: str
    peer: str
    ours: Work
    theirs: Work
    apart: Callable[[Any, Any], tuple[float, str]]
    tolerance: float
    unmeasured: tuple[Work, Work] | None = None
    share: int = 1
    rounds: int = 3
    weigh: str = "tensors"
    closing: Callable[[], Any] = field(default=lambda: None)
    floor: Work | None = None


def measured(contest: Contest) -> dict[str, Any]:
    """Compare, then time in turns: the best turn of each counts.

    Raises:
        RuntimeError: the results are further apart than the contest allows; no number is given.
    """
    weigh = _WEIGHED[contest.weigh]
    try:
        (ours, our_mb), (theirs, their_mb) = weigh(contest.ours), weigh(contest.theirs)
        error, words = contest.apart(ours, theirs)
        if not error <= contest.tolerance:
            raise RuntimeError(f"peers: {contest.work} is {error:.2e} from {contest.peer} ({words}); at most "
                               f"{contest.tolerance:.0e} is allowed.")
        del ours, theirs
        our_seconds, their_seconds, floor = _best(contest)
    finally:
        contest.closing()
    return {
        "method": f"{contest.work}, beside {contest.peer}", "work": contest.work, "peer": contest.peer,
        "seconds": our_seconds, "peer_seconds": their_seconds, "time_ratio": our_seconds / their_seconds,
        "floor_ratio": None if floor is None else floor / their_seconds,
        "mb": our_mb, "peer_mb": their_mb, "memory_ratio": our_mb / their_mb if our_mb and their_mb else None,
        "memory": contest.weigh, "error": error, "words": words,
    }  # fmt: skip


def _best(contest: Contest) -> tuple[float, float, float | None]:
    """Seconds of a piece: ours, theirs, and the floor's, None where there is none."""
    least, floors = [float("inf"), float("inf")], []
    idle = [0.0, 0.0] if contest.unmeasured is None else [float("inf"), float("inf")]
    for _ in range(contest.rounds):
        for number, run in enumerate((contest.ours, contest.theirs)):
            least[number] = min(least[number], _seconds(run))
            if contest.unmeasured is not None:
                idle[number] = min(idle[number], _seconds(contest.unmeasured[number]))
        if contest.floor is not None:
            floors.append(_seconds(contest.floor))
    ours, theirs = ((all_of_it - rest) / contest.share for all_of_it, rest in zip(least, idle, strict=True))
    return ours, theirs, min(floors) / contest.share if floors else None


def _seconds(run: Work) -> float:
    gc.collect()
    wait, (now, _) = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None, clock()
    wait()
    start = now()
    run()
    wait()
    return now() - start


def _resident(run: Work) -> tuple[Any, float]:
    with peak_memory() as memory:
        result = run()
    return result, memory.peak_mb


#: By ``Contest.weigh``.
_WEIGHED: dict[str, Callable[[Work], tuple[Any, float | None]]] = {
    "tensors": allocated_peak, "resident": _resident, "": lambda run: (run(), None),
}  # fmt: skip
