"""What pieces of work are timed by."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


def clock() -> tuple[Callable[[], float], str]:
    """The clock, in seconds, and its name.

    With one thread it is that of the processor, which other load on the machine does not stop.
    """
    if torch.cuda.is_available() or torch.get_num_threads() > 1:
        return time.perf_counter, "wall"
    return time.process_time, "processor"


@dataclass
class Seconds:
    """Seconds, set on leaving ``timed``.

    Args:
        wall: as they pass.
        own: by ``clock``.
    """

    wall: float = 0.0
    own: float = 0.0


@contextmanager
def timed() -> Iterator[Seconds]:
    """Time the ``with`` by both clocks."""
    seconds, (now, _) = Seconds(), clock()
    wall, own = time.perf_counter(), now()
    yield seconds
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds.wall, seconds.own = time.perf_counter() - wall, now() - own
