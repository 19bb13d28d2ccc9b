"""Kill a streamed edit at random moments, go on, and compare with one that nothing stopped, before the codec.

    python tests/host/killed_edit.py [MOMENTS] [SEED]

Each try is a process of its own with the real host in it, ended by SIGKILL. The comparison is of the finished windows
on the disk, which are what the video is encoded from.
"""

from __future__ import annotations

import hashlib
import random
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
FRAMES, SIDE, WINDOW = 24, 64, 2
BEGUN, DONE = "begun", "frames"


def set_up() -> None:
    """The pack under its name, and the host on the path, as the tests have them."""
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    for path in (HERE.parent / "conftest.py", HERE / "conftest.py"):
        runpy.run_path(str(path))


def child(folder: Path) -> None:
    """One try: the node in the host, on a clip in ``folder``; prints a hash of its frames when it is through."""
    set_up()
    import folder_paths

    folder_paths.folder_names_and_paths["steadyedit"] = ([str(folder / "steadyedit")], set())
    import torch
    from steadyedit.streaming import video as streaming

    written = streaming.written

    def told(place, store, *rest):
        digest = hashlib.sha256(b"".join(frame.numpy().tobytes() for frame in store.frames())).hexdigest()
        print(DONE, digest, flush=True)
        return written(place, store, *rest)

    streaming.written = told
    node, inputs = edit_of(folder)
    print(BEGUN, flush=True)
    with torch.inference_mode():
        print(node.execute(**inputs).args[1], flush=True)


def edit_of(folder: Path) -> tuple:
    """The node and its inputs, in a process that has the host."""
    import comfy.samplers
    from comfy_api.latest import InputImpl
    from comfy_extras import nodes_custom_sampler as custom
    from steadyedit import nodes
    from steadyedit.backends.comfy_native import ComfyBackend, toy
    from toys import attached, text

    unet, _, vae = toy.load()
    node = next(node for node in nodes.node_list() if node.GET_SCHEMA().node_id == "SteadyEditStreamedEdit")
    return node, dict(
        video=InputImpl.VideoFromFile(str(folder / "clip.mp4")), vae=vae, seed=1, window=WINDOW, start=0, count=0,
        guider=custom.CFGGuider.execute(attached(unet, "gather-swap"), text(1), text(2), 1.5)[0], stride=1, size=SIDE,
        sampler=comfy.samplers.sampler_object("euler"), noise="each frame its own",
        sigmas=ComfyBackend().schedule(unet).ddim_sigmas(10).float()[-4:].clone())


def tried(folder: Path, kill: tuple[int, float] | None = None) -> tuple[str | None, str, float]:
    """Run a child; the hash of its frames if it came so far, what it said last, and the seconds that it was at work.

    Args:
        kill: so many windows are on the disk, and then seconds later.
    """
    process = subprocess.Popen([sys.executable, __file__, "--child", str(folder)], stdout=subprocess.PIPE, text=True,
                               stderr=subprocess.DEVNULL)  # fmt: skip
    found, said, began = None, "", time.monotonic()
    assert process.stdout is not None
    for line in process.stdout:
        said = line.strip()
        began = time.monotonic() if said == BEGUN else began
        if said == BEGUN and kill is not None:
            while process.poll() is None and windows(folder) < kill[0]:
                time.sleep(0.005)
            time.sleep(kill[1])
            process.kill()
        if said.startswith(DONE):
            found = said.split()[1]
    process.wait()
    return found, said, time.monotonic() - began


def prepared(folder: Path, frames: int = FRAMES) -> Path:
    """A folder with a clip in it."""
    from fractions import Fraction

    from steadyedit.toyworld import render, sample_scene
    from steadyedit.video.write import write_clip

    write_clip(folder / "clip.mp4", render(sample_scene(3, "demo", frames=frames, size=SIDE)).frames, Fraction(8))
    return folder


def windows(folder: Path) -> int:
    """Finished windows on the disk."""
    return len(list(folder.glob("steadyedit/cache/streams/*/*.window")))


def main(moments: int = 10, seed: int = 0) -> int:
    """Kill as many times as asked, spread over the windows, each at a random moment of a window's work."""
    set_up()
    draw, number = random.Random(seed), -(-FRAMES // WINDOW)
    with tempfile.TemporaryDirectory() as place:
        whole, cut = (Path(place) / name for name in ("whole", "cut"))
        for folder in (whole, cut):
            folder.mkdir()
            prepared(folder)
        expected, said, took = tried(whole)
        print(f"in one go: {said}, {took:.1f} s beside the start of the host", flush=True)
        for moment in range(moments):
            # The last window is left for the end; never before there is a window to go on with.
            least = 1 + moment * (number - 1) // moments
            after = draw.uniform(0, took / number)
            before = windows(cut)
            found, said, _ = tried(cut, (least, after))
            print(f"killed {moment + 1}: {after:.2f} s after window {least} of {number} was kept, {before} were there "
                  f"at its start and {windows(cut)} at its end", flush=True)  # fmt: skip
            if found not in (None, expected):
                print("frames DIFFER")
                return 1
        found, said, _ = tried(cut)
        print(f"at last: {said}; frames {'equal' if found == expected else 'DIFFER'}")
    return int(found != expected or found is None)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]))
    else:
        raise SystemExit(main(*map(int, sys.argv[1:])))
