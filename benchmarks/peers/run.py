"""This pack beside its peers: ``python -m steadyedit bench peers``.

Whoever has a peer installed measures it: nothing of theirs comes with this pack. Rows whose peer is not there say what
they need. Those of ComfyUI's core run with its Python, and find it by ``COMFYUI_PATH``; the authors' code of
Tune-A-Video and the RAVE pack are folders, named by ``--peers tune-a-video=FOLDER,rave=FOLDER``. With one thread the
clock is the processor's, which other load on the machine does not stop.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..common.asked import chosen_of, written
from ..common.clock import clock
from ..common.report import meta
from . import authors, clips, core, networks
from .contest import Absent, Contest, measured

#: Gives a contest, of the folders of peers.
WORKS: dict[str, Callable[[Mapping[str, Path]], Contest]] = {
    "reading": clips.reading,
    "exact reading": partial(clips.reading, exactly=True),
    "core reading": core.reading,
    "core writing": core.writing,
    "segment anything": networks.segmentation,
    "gather-swap": networks.gather_swap,
    "core lora": core.lora_step,
    "rave": core.rave,
    "rave on 9 frames": partial(core.rave, frames=9),
    "tune-a-video": authors.tuning,
    "tune-a-video on 32x32": partial(authors.tuning, side=32),
    "tune-a-video forward": authors.forward,
}
FOLDERS = ("comfyui", "rave", "tune-a-video")


def main(
    methods: Sequence[str] | None = None, json_path: Path | None = None, peers: Sequence[str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Compare, measure and print one line each, and write the numbers.

    Args:
        methods: of ``WORKS``; all if None.
        peers: "NAME=FOLDER" each, of ``FOLDERS``.

    Raises:
        ValueError: an unknown row or peer.
        RuntimeError: a result differs from the peer's.
    """
    chosen = chosen_of(methods or WORKS, WORKS)
    folders = folders_of(peers or ())
    rows: list[dict[str, Any]] = []
    absent: dict[str, str] = {}
    for name in chosen:
        try:
            row = measured(WORKS[name](folders))
        except Absent as reason:
            absent[name] = str(reason)
            print(f"{name}: not measured, {reason}", flush=True)
            continue
        rows.append(row)
        print(in_words(row), flush=True)
    report = {"meta": meta(0, 0, clock=clock()[1], threads=torch.get_num_threads(), absent=absent), "rows": rows}
    return written(report, json_path)


def in_words(row: Mapping[str, Any]) -> str:
    """A row as one line."""
    memory = "" if row["memory_ratio"] is None else (
        f", memory {row['memory_ratio']:.2f} of theirs ({row['mb']:.0f} and {row['peer_mb']:.0f} MB, {row['memory']})")
    times = f"{row['seconds']:.3g} s against {row['peer_seconds']:.3g} s, time {row['time_ratio']:.2f} of theirs"
    if row["floor_ratio"] is not None:
        times += f" (what both must do: {row['floor_ratio']:.2f})"
    return f"{row['method']}: {times}{memory}; {row['words']}"


def folders_of(peers: Sequence[str]) -> dict[str, Path]:
    """The folders that are named, ComfyUI's also by its environment variable.

    Raises:
        ValueError: an unknown peer, or no such folder.
    """
    named = {"comfyui": os.environ["COMFYUI_PATH"]} if os.environ.get("COMFYUI_PATH") else {}
    for text in peers:
        name, _, folder = text.partition("=")
        if name not in FOLDERS or not folder:
            raise ValueError(f"peers: expected NAME=FOLDER with a name of {', '.join(FOLDERS)}, but got {text!r}.")
        named[name] = folder
    found = {name: Path(folder).expanduser() for name, folder in named.items()}
    for name, place in found.items():
        if not place.is_dir():
            raise ValueError(f"peers: {name}: there is no folder {place}.")
    return found
