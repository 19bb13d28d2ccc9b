"""The folder of finished and interrupted trainings: how large it is, and room made in it."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .writing import sweep

#: Name of the folder inside that of tuned weights.
FOLDER = "cache"
LIMIT_VARIABLE = "STEADYEDIT_CACHE_GB"
DEFAULT_GB = 20.0
GB = 2**30


@dataclass(frozen=True)
class Entry:
    """A file of the cache; ``used``: seconds since 1970 at which it was written or, as far as the system
    notes it, read."""

    path: Path
    bytes: int
    used: float


def limit_bytes() -> int:
    """``$STEADYEDIT_CACHE_GB`` in bytes, else 20 GB.

    Raises:
        ValueError: it is no number of 0 or more.
    """
    given = os.environ.get(LIMIT_VARIABLE, "").strip()
    try:
        size = float(given) if given else DEFAULT_GB
        if not 0 <= size < float("inf"):
            raise ValueError
    except ValueError:
        raise ValueError(f"{LIMIT_VARIABLE}: expected a number of gigabytes such as 20, but got {given!r}.") from None
    return int(size * GB)


def entries(folder: Path) -> list[Entry]:
    """All files of a cache, the one unused for longest first."""
    found = []
    for path in Path(folder).rglob("*"):
        with suppress(OSError):
            status = path.lstat()
            if path.is_file() or path.is_symlink():
                found.append(Entry(path, status.st_size, max(status.st_mtime, status.st_atime)))
    return sorted(found, key=lambda entry: (entry.used, str(entry.path)))


def trim(folder: Path, limit: int, keep: Collection[Path] = ()) -> list[Entry]:
    """Remove files, unused for longest first, until no more than ``limit`` bytes are left; returns those removed.

    What a killed process was writing goes first. Files that cannot be removed stay.
    """
    if Path(folder).is_dir():
        sweep(Path(folder))
    left = entries(folder)
    total, removed = sum(entry.bytes for entry in left), []
    for entry in left:
        if total <= limit:
            break
        if entry.path in keep:
            continue
        with suppress(OSError):
            entry.path.unlink()
            total -= entry.bytes
            removed.append(entry)
    return removed
