"""Peak memory of a piece of work."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

# Seconds between looks at the process; shorter peaks of a training step repeat at every step.
_INTERVAL = 0.02


@dataclass
class Memory:
    """peak_mb: MB above the start, so far while ``peak_memory`` looks at the process, in all after it."""

    peak_mb: float = 0.0


@contextmanager
def peak_memory() -> Iterator[Memory]:
    """Measure the ``with``: the GPU's allocated memory where there is a GPU, else resident memory.

    Resident memory is looked at fifty times a second (less often on a machine that is busy
    with other work: what is held for moments can go unseen there), and what an earlier run
    has freed but the allocator still keeps is not counted again: compare it between methods
    of one run with care, and trust differences above a few MB only.
    """
    memory = Memory()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield memory
        memory.peak_mb = (torch.cuda.max_memory_allocated() - before) / 2**20
        return

    import psutil

    resident, done = psutil.Process().memory_info, threading.Event()
    before = resident().rss

    def watch() -> None:
        while not done.wait(_INTERVAL):
            memory.peak_mb = max(memory.peak_mb, (resident().rss - before) / 2**20)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield memory
    finally:
        done.set()
        watcher.join()


def allocated_peak(run: Callable[[], Any]) -> tuple[Any, float]:
    """What ``run`` returns, and the MB of tensors that it holds at its worst moment.

    Exact to the byte, unlike ``peak_memory``: PyTorch's own allocations, one by one, those
    inside of operators included. Too slow for a training.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = run()
        return result, (torch.cuda.max_memory_allocated() - before) / 2**20
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the profiler announces its start and end otherwise
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = run()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        highest = max(highest, held)
    return result, highest / 2**20
