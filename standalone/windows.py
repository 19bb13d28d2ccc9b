"""Finished windows of a streamed video on disk: each says what it is, and is checked when it is found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..files.writing import whole, write_bytes
from ..methods.stored import digest_of, set_aside
from .graph import GraphError

#: Ending of the file beside a window that holds its description and digest.
NOTE = ".json"


def keep(path: Path, frames: torch.Tensor) -> None:
    """Write a finished window, whole or not at all, as it will go into the video: 8 bits.

    Raises:
        ValueError: it holds values that are not finite; nothing is written.
    """
    if not torch.isfinite(frames).all():
        raise ValueError(f"--stream: window {path.stem} came out with values that are not finite (NaN), so it is not "
                         "kept.")
    with whole(path) as temporary, temporary.open("wb") as file:
        np.save(file, (frames.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())


def describe(path: Path, description: dict[str, Any]) -> None:
    """Note beside a window what it is; a window counts as finished from then on."""
    note = {"description": description, "digest": digest_of(path)}
    write_bytes(path.with_suffix(NOTE), json.dumps(note, sort_keys=True).encode())


def is_finished(path: Path, description: dict[str, Any]) -> bool:
    """Whether a window is there as it was written; a damaged or foreign one is set aside with a warning."""
    if not path.exists():
        return False
    try:
        note = json.loads(path.with_suffix(NOTE).read_text(encoding="utf-8"))
        if note["description"] != description:
            raise ValueError("belongs to something else.")
        if note["digest"] != digest_of(path):
            raise ValueError("is damaged.")
    except FileNotFoundError:
        # Ended between the two files: no fault, only no result.
        path.unlink()
        return False
    except (ValueError, KeyError, TypeError) as error:
        why = str(error) if isinstance(error, ValueError) and str(error)[-1:] == "." else "has no readable note."
        set_aside(path, f"{path}: {why}")
        return False
    return True


def finished(paths: list[Path]) -> Iterator[torch.Tensor]:
    """All frames of the kept windows, [H, W, 3] in 0..1, one by one.

    Raises:
        GraphError: a window was damaged since it was written.
    """
    for path in paths:
        if json.loads(path.with_suffix(NOTE).read_text(encoding="utf-8"))["digest"] != digest_of(path):
            raise GraphError(f"--stream: {path} was damaged meanwhile; run the same command again, which does this "
                             "window anew.")
        for picture in np.load(path, mmap_mode="r"):
            yield torch.from_numpy(picture.copy()).float() / 255
