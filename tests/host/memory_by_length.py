"""Peak memory and time of a streamed edit in the real host, by length of clip.

    python tests/host/memory_by_length.py [SIDE] [FRAMES ...]

Each length is a process of its own, with the node, the toy model and gather-swap's group, one step of euler. Prints
the process's largest resident memory, and the seconds of each tenth of its windows: a second of video costs the same at
the end as at the beginning. Finished windows stay where a run was stopped, but its memory is then of the rest alone.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from itertools import islice
from pathlib import Path

import killed_edit

WINDOW, MIB = 8, 1024


def child(folder: Path, side: int) -> None:
    """One length; prints its numbers as JSON."""
    killed_edit.set_up()
    import folder_paths

    folder_paths.folder_names_and_paths["steadyedit"] = ([str(folder / "steadyedit")], set())
    import torch
    from steadyedit.streaming.store import WindowStore

    moments, keep = [], WindowStore.keep

    def told(store, window, frames):
        keep(store, window, frames)
        moments.append(time.process_time())

    WindowStore.keep = told
    node, inputs = killed_edit.edit_of(folder)
    began = time.process_time()
    with torch.inference_mode():
        info = node.execute(**{**inputs, "size": side, "window": WINDOW, "sigmas": inputs["sigmas"][[0, -1]]}).args[1]
    spent = [after - before for before, after in zip([began, *moments], moments)]
    tenth = max(1, len(spent) // 10)
    print(json.dumps({
        "info": info, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB,
        "processor_seconds_a_window": [sum(part) / len(part) for part in (spent[at : at + tenth] for at in range(
            0, len(spent), tenth))]}))  # fmt: skip


def frames_of(frames: int, side: int):
    """A scene that goes back and forth, a picture at a time."""
    from steadyedit.toyworld import render, sample_scene

    scene = render(sample_scene(3, "demo", frames=min(frames, 24), size=side)).frames
    while True:
        yield from scene
        yield from scene.flip(0)


def main(side: int = 512, *lengths: int) -> None:
    """One line a length."""
    killed_edit.set_up()
    from steadyedit.video.write import write_clip

    for frames in lengths or (120, 1440):
        with tempfile.TemporaryDirectory() as place:
            write_clip(Path(place) / "clip.mp4", islice(frames_of(frames, side), frames), Fraction(24))
            command = [sys.executable, __file__, "--child", place, str(side)]
            said = subprocess.run(command, capture_output=True, text=True)
            if said.returncode:
                raise SystemExit(said.stderr)
            found = json.loads(said.stdout.strip().splitlines()[-1])
            print(f"{frames} frames of {side}x{side}: {found['peak_mib']:.0f} MiB at most; seconds a window: "
                  + " ".join(f"{part:.2f}" for part in found["processor_seconds_a_window"]), flush=True)  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main(*map(int, sys.argv[1:]))
