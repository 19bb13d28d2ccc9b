"""The one form in which every benchmark reports.

JSON: {"meta": {seed, clips, versions, device, commit, ...}, "rows": [{"method": slug, key:
mean over clips, key_ci: [low, high], ...}], "clips": [{"method", "clip", key: value, ...}]}.
``key_ci`` is the 95 % confidence interval of the difference to the first row's method, paired
over clips (``vision.metrics.paired_interval``): it excludes 0 where the difference is more
than chance. null: has no meaning (the first method's own interval, a single clip's).
"""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...files.writing import write_bytes
from ...vision.metrics import paired_interval

Clip = dict[str, Any]
Keys = dict[str, tuple[str, str, int]]


def rows(clips: Sequence[Clip], keys: Keys) -> list[dict[str, Any]]:
    """Means and paired intervals, one row a method, in the order of first appearance.

    Args:
        clips: rows with ``method``, ``clip`` and a value or None for every key; every
            method has the same clips in the same order.
    """
    by_method: dict[str, list[Clip]] = {}
    for clip in clips:
        by_method.setdefault(clip["method"], []).append(clip)
    first = next(iter(by_method))
    result = []
    for method, own in by_method.items():
        row: dict[str, Any] = {"method": method}
        for key in keys:
            values = [clip[key] for clip in own]
            known = [value for value in values if value is not None]
            row[key] = sum(known) / len(known) if known else None
            against = [clip[key] for clip in by_method[first]]
            row[f"{key}_ci"] = None if method == first else paired_interval(values, against)
        result.append(row)
    return result


def meta(seed: int, clips: int, **more: Any) -> dict[str, Any]:
    """What one must know to run the same again."""
    from importlib import metadata

    import torch

    def version(package: str) -> str | None:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return None

    versions = {package: version(package) for package in ("steadyedit", "torch", "diffusers", "transformers")}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return {
        "seed": seed, "clips": clips, "versions": {"python": platform.python_version(), **versions},
        "device": device, "commit": commit(), **more,
    }  # fmt: skip


def commit() -> str | None:
    """The pack's commit, with a + where files differ from it; None outside a git checkout."""
    root = Path(__file__).parents[2]
    asked = ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def table(result: Sequence[dict[str, Any]], keys: Keys) -> str:
    """Markdown; a star marks a difference to the first method that chance does not explain."""
    lines = [
        "| method | " + " | ".join(f"{heading} {' ↑' if better > 0 else ' ↓'}".replace("  ", " ")
                                   for heading, _, better in keys.values()) + " |",
        "|---" * (len(keys) + 1) + "|",
    ]  # fmt: skip
    for row in result:
        cells = []
        for key, (_, form, _) in keys.items():
            interval = row[f"{key}_ci"]
            sure = interval is not None and (interval[0] > 0 or interval[1] < 0)
            cells.append("–" if row[key] is None else f"{row[key]:{form}}{' *' if sure else ''}")
        lines.append(f"| {row['method']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_json(path: Path, report: dict[str, Any]) -> None:
    """Whole or not at all.

    Raises:
        OSError: one sentence; an older file is still there.
        ValueError: a number is not finite: the benchmark is wrong, not the reader.
    """
    write_bytes(Path(path), (json.dumps(report, indent=1, allow_nan=False) + "\n").encode())
