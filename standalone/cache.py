"""``steadyedit cache``: what is kept of trainings on this machine, and room made."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from ..files.cache import FOLDER, GB, entries, limit_bytes, trim
from .comfy_process import find_comfy


def folders() -> list[Path]:
    """The caches of standalone runs and of the ComfyUI that ``run`` would start."""
    from ..backends.diffusers.local import weights_folder

    comfy = find_comfy()
    homes = [weights_folder(), *([comfy / "models" / "steadyedit"] if comfy else [])]
    return [home / FOLDER for home in homes]


def main(folder: Path | None, limit: float | None, empty: bool) -> None:
    """Print every cache's size and limit, after making room where asked to.

    Args:
        folder: one cache instead of those of this machine.
        limit: gigabytes to trim to now; None: as it is.
        empty: remove everything.

    Raises:
        ValueError: a limit below 0.
    """
    if limit is not None and not 0 <= limit < float("inf"):
        raise ValueError(f"--limit {limit}: expected gigabytes, 0 or more.")
    for place in [folder] if folder else folders():
        if empty or limit is not None:
            removed = trim(place, 0 if empty or limit is None else int(limit * GB))
            print(f"{place}: removed {len(removed)} files, {sum(e.bytes for e in removed) / GB:.3f} GB.")
        left = entries(place)
        for entry in left:
            day = time.strftime("%Y-%m-%d", time.localtime(entry.used))
            print(f"{entry.bytes / GB:9.3f} GB  last used {day}  {entry.path.relative_to(place)}")
        print(f"{place}: {len(left)} files, {sum(e.bytes for e in left) / GB:.3f} GB of {limit_bytes() / GB:g} GB.")
    print("Removed trainings are done again when they are queued again; saved weights are not here.", file=sys.stderr)
