"""Peak memory of a piece of work."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

# Seconds between looks at the process; shorter peaks of a training step repeat at every step.
_INTERVAL = 0.02


@dataclass
class Memory:
    """peak_mb: MB above the start, set on leaving ``peak_memory``."""

    peak_mb: float = 0.0


@contextmanager
def peak_memory() -> Iterator[Memory]:
    """Measure the ``with``: the GPU's allocated memory where there is a GPU, else resident memory.

    Resident memory is looked at fifty times a second, and what an earlier run has freed but
    the allocator still keeps is not counted again: compare it between methods of one run
    with care, and trust differences above a few MB only.
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
    before = highest = resident().rss

    def watch() -> None:
        nonlocal highest
        while not done.wait(_INTERVAL):
            highest = max(highest, resident().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield memory
    finally:
        done.set()
        watcher.join()
        memory.peak_mb = (highest - before) / 2**20
