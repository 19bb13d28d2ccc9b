"""What a process takes, as Linux tells it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


class Meter:
    """Processor time and the most memory of a process, from now on.

    Args:
        process: its number.
    """

    def __init__(self, process: int):
        self.folder = Path(f"/proc/{process}")
        with suppress(OSError):
            (self.folder / "clear_refs").write_text("5")  # The highest size begins anew.
        self.before = self._seconds() or 0.0

    def _seconds(self) -> float | None:
        try:
            words = (self.folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def seconds(self) -> float | None:
        """Processor time since the start, None where there is no telling."""
        now = self._seconds()
        return None if now is None else now - self.before

    def gigabytes(self) -> float | None:
        """The most that it held in memory, in units of 2^30 bytes."""
        try:
            lines = (self.folder / "status").read_text().splitlines()
        except OSError:
            return None
        return next((int(line.split()[1]) / 2**20 for line in lines if line.startswith("VmHWM")), None)
