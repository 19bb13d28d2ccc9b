"""Peak memory and time of a streamed edit in the real host, by length of clip.

    python tests/host/memory_by_length.py [SIDE] [FRAMES ...] [--keep FOLDER] [--json FILE]

Each length is a process of its own: the node with gather-swap's group, the source's inversion and a mask video, so that
every window is read, encoded, inverted, sampled with the region kept, decoded, composited and written. What decides
the frames is cut down, for memory by length does not depend on it: inversion and sampling have one step each, and U-Net
and VAE have the toy models' shape at a quarter of their width, which leaves less for a growth to hide in. Printed are
the process's largest resident memory and the processor's seconds for a second of video along the clip: it costs the
same at the end as at the beginning. With ``--keep`` a stopped run goes on behind its last window; its memory is then
the largest of all parts.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest.mock import patch

import killed_edit

WINDOW, RATE, MIB = 8, 24, 1024
CLIP, MASK, LOG = "clip.mp4", "mask.mp4", "windows.jsonl"
#: The toy models' widths, cut down.
GROUPS = 8
UNET = {"block_out_channels": (16, 24, 16, 16), "attention_head_dim": 1, "norm_num_groups": GROUPS}
VAE = {"block_out_channels": (8, 8, 16, 16), "norm_num_groups": GROUPS}
#: Parts of a clip in the printed line.
PARTS = 10


def child(folder: Path, side: int) -> None:
    """One length; a line for each window in ``LOG``, and one for what comes behind them."""
    killed_edit.set_up()
    import folder_paths

    folder_paths.folder_names_and_paths["steadyedit"] = ([str(folder / "steadyedit")], set())
    import torch
    from comfy_api.latest import InputImpl
    from comfy_extras import nodes_custom_sampler as custom
    from steadyedit.streaming.inversion import StreamedInversion
    from steadyedit.streaming.store import WindowStore
    from toys import attached, text

    last, keep = time.process_time(), WindowStore.keep

    def note(**what: Any) -> None:
        nonlocal last
        now = time.process_time()
        line = {**what, "seconds": now - last, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB}
        with (folder / LOG).open("a") as log:
            log.write(json.dumps(line) + "\n")
        last = now

    def told(store: Any, window: Any, frames: Any) -> None:
        keep(store, window, frames)
        note(first=window.first, count=window.count)

    WindowStore.keep = told
    (unet, vae), (node, inputs) = narrow(), killed_edit.edit_of(folder)
    model, sigmas = attached(unet, "gather-swap"), inputs["sigmas"][[0, -1]]
    note(of="start")
    with torch.inference_mode():
        node.execute(**{
            **inputs, "vae": vae, "size": side, "window": WINDOW, "sigmas": sigmas,
            "guider": custom.CFGGuider.execute(model, text(1), text(2), 1.0)[0],
            "mask_video": InputImpl.VideoFromFile(str(folder / MASK)),
            "inversion": StreamedInversion(model, text(2), sigmas, blend="ramp"),
        })  # fmt: skip
    note(of="file")


def narrow() -> tuple[Any, Any]:
    """MODEL and VAE with random weights, the same in every process."""
    import torch
    from steadyedit.backends.comfy_native import toy
    from steadyedit.toyworld import models

    made = torch.nn.GroupNorm.__init__

    def grouped(self: Any, num_groups: int, *rest: Any, **more: Any) -> None:
        made(self, min(num_groups, GROUPS), *rest, **more)  # the host's constructors always say 32

    torch.manual_seed(0)
    with (patch.dict(models.UNET_CONFIG, UNET), patch.dict(models.VAE_CONFIG, VAE),
          patch.object(torch.nn.GroupNorm, "__init__", grouped)):  # fmt: skip
        return toy.unet_from(models.build_unet().state_dict()), toy.vae_from(models.build_vae().state_dict())


def frames_of(frames: int, side: int) -> Iterator[Any]:
    """A scene that goes back and forth, a picture at a time."""
    from steadyedit.toyworld import render, sample_scene

    scene = render(sample_scene(3, "demo", frames=min(frames, 24), size=side)).frames
    while True:
        yield from scene
        yield from scene.flip(0)


def masks_of(side: int) -> Iterator[Any]:
    """The same square in every frame."""
    import torch

    mask = torch.zeros(side, side, 3)
    mask[side // 4 : -side // 4, side // 4 : -side // 4] = 1
    while True:
        yield mask


def measured(folder: Path, frames: int, side: int) -> dict[str, Any]:
    """One length, in a process of its own."""
    from steadyedit.video.write import write_clip

    folder.mkdir(parents=True, exist_ok=True)
    for name, pictures in ((CLIP, frames_of(frames, side)), (MASK, masks_of(side))):
        if not (folder / name).exists():
            write_clip(folder / name, islice(pictures, frames), Fraction(RATE), count=frames)
    said = subprocess.run([sys.executable, __file__, "--child", str(folder), str(side)], capture_output=True, text=True)
    if said.returncode:
        raise SystemExit(said.stderr)
    lines = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    windows = sorted((line for line in lines if "first" in line), key=lambda line: line["first"])
    return {
        "frames": frames, "side": side, "window": WINDOW, "rate": RATE,
        "peak_mib": max(line["peak_mib"] for line in lines),
        "starts": sum(line.get("of") == "start" for line in lines),
        "file_seconds": sum(line["seconds"] for line in lines if line.get("of") == "file"),
        "seconds_of_a_second": by_second(windows),
        "peak_mib_behind_a_second": [max(line["peak_mib"] for line in part) for part in seconds_of(windows)],
    }  # fmt: skip


def seconds_of(windows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The windows of each whole second of video."""
    each = RATE // WINDOW
    return [windows[at : at + each] for at in range(0, len(windows) - each + 1, each)]


def by_second(windows: list[dict[str, Any]]) -> list[float]:
    """The processor's seconds for each whole second of video."""
    return [sum(line["seconds"] for line in part) for part in seconds_of(windows)]


def shown(row: dict[str, Any]) -> str:
    """A length in a line."""
    each = row["seconds_of_a_second"]
    part = max(1, len(each) // PARTS)
    means = (f"{fmean(each[at : at + part]):.1f}" for at in range(0, len(each), part))
    return (f"{row['frames']} frames of {row['side']}x{row['side']}: {row['peak_mib']:.0f} MiB at most; "
            f"the processor's seconds for a second of video, along the clip: {' '.join(means)}; "
            f"for the file: {row['file_seconds']:.1f}")  # fmt: skip


def main(arguments: list[str]) -> None:
    """One line a length."""
    parser = argparse.ArgumentParser(description="Memory and time of a streamed edit in the host, by length.")
    parser.add_argument("side", type=int, nargs="?", default=512)
    parser.add_argument("frames", type=int, nargs="*", default=[120, 1440])
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    killed_edit.set_up()
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for frames in given.frames:
            folder = (given.keep or Path(place)).resolve() / f"{frames} of {given.side}"
            rows.append(measured(folder, frames, given.side))
            print(shown(rows[-1]), flush=True)
            if given.json:
                given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main(sys.argv[1:])
