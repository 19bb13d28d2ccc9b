"""One benchmark in several processes, started by torchrun or by ``--workers``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

# Processes wait for the slowest one; torch.distributed's own patience is half an hour.
PATIENCE = timedelta(days=2)


@contextmanager
def sharded() -> Iterator[tuple[int, int]]:
    """(rank, processes) inside the ``with``; leaving it waits until all have left.

    Nothing is exchanged but the waiting: each process measures its own clips, on files.
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield 0, 1
        return
    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield dist.get_rank(), size
        dist.barrier()
    finally:
        dist.destroy_process_group()


def launch(workers: int, arguments: Sequence[str]) -> int:
    """Run this package's command line in ``workers`` processes by torchrun; returns the exit code.

    The cores are divided among the processes: small models gain more from a clip per core
    than from several cores per clip.

    Raises:
        ValueError: ``workers`` below 1.
    """
    if workers < 1:
        raise ValueError(f"workers: at least 1 is needed, but got {workers}.")
    threads = max(1, (os.cpu_count() or 1) // workers)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}",
        "-m", __package__.split(".")[0], *arguments,
    ]  # fmt: skip
    return subprocess.call(command, env={"OMP_NUM_THREADS": str(threads), **os.environ})
