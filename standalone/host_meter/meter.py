"""Seconds and memory between one node's beginning and the next one's."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

GIB = 2**30


class NodeMeter:
    """What each node took, by its id, in the order in which they ran."""

    def __init__(self) -> None:
        self.nodes: list[dict[str, Any]] = []
        self.at: str | None = None
        self.begun = self.worked = 0.0

    def begin(self, node: str | None) -> None:
        """A node begins, and the one before has ended; None where nothing runs any more."""
        if self.at is not None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.nodes.append({"node": self.at, "seconds": time.perf_counter() - self.begun,
                               "processor_seconds": time.process_time() - self.worked, **_most()})
        self.at = node
        if node is not None:
            _forget_most()
            self.begun, self.worked = time.perf_counter(), time.process_time()


def _most() -> dict[str, float | None]:
    """The most memory since ``_forget_most``, in GiB: PyTorch's on the device, the device's own now, the process's."""
    cuda = torch.cuda.is_available()
    free, total = torch.cuda.mem_get_info() if cuda else (0, 0)
    return {"device_gib": torch.cuda.max_memory_allocated() / GIB if cuda else None,
            "device_in_use_gib": (total - free) / GIB if cuda else None, "process_gib": _process_gib()}


def _forget_most() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the highest size of the process begins anew, on Linux


def _process_gib() -> float | None:
    """None where the system does not tell."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 2**20
    return None


def about_device() -> dict[str, Any]:
    """The device's rate in plain products of matrices, TFLOP a second by dtype, and what its driver is."""
    device, side = ("cuda", 8192) if torch.cuda.is_available() else ("cpu", 512)
    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        best = 0.0
        for _ in range(6):
            begun = time.perf_counter()
            a @ b
            if device == "cuda":
                torch.cuda.synchronize()
            best = max(best, 2 * side**3 / (time.perf_counter() - begun) / 1e12)
        rates[str(dtype).removeprefix("torch.")] = best
    return {"kind": device, "matrix_tflops": rates, "cuda": torch.version.cuda,
            "capability": list(torch.cuda.get_device_capability()) if device == "cuda" else None}
