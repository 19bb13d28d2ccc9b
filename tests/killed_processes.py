"""Kill a streamed edit in two processes at random moments, go on, and compare with one process that nothing stopped.

    python tests/killed_processes.py [MOMENTS] [SEED]

SIGKILL goes to all processes, to one of the two at work, or to the command that began them. The comparison is of the
frames as they go into the video, before the codec.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
FRAMES, SIDE, WINDOW = 8, 64, 2
#: Of the whole trial.
LONG = 24
#: Seconds after a window was kept, at the most; some are at work on another one for as long.
MOST = 1.0
DONE, PIDS = "frames.txt", "pid."
WHO = ("all", "the first", "the second", "the command")


def set_up() -> None:
    """The package under its name, as the tests have it."""
    sys.path[:0] = [str(HERE)]
    runpy.run_path(str(HERE / "conftest.py"))


def child(arguments: list[str]) -> int:
    """The command line, or one process of it; leaves a hash of the frames beside the output, and its process id."""
    set_up()
    from steadyedit.standalone import cli, processes, stream

    def command(given):
        return [sys.executable, __file__, "--child", *given]

    output = Path(arguments[arguments.index("--output") + 1])
    (output / (PIDS + os.environ.get("RANK", "command"))).write_text(str(os.getpid()))
    write = stream.write_clip

    def told(path, frames, *rest, **named):
        digest = hashlib.sha256()

        def passed():
            for frame in frames:
                digest.update(frame.numpy().tobytes())
                yield frame

        written = write(path, passed(), *rest, **named)
        (output / DONE).write_text(digest.hexdigest())
        return written

    stream.write_clip, processes._command = told, command
    return cli.main(arguments)


def graph_of(folder: Path, steps: int = 3, frames: int = FRAMES) -> Path:
    """Gather-swap over the clip in a folder, without the training of its root; the clip is rendered beside it."""
    from fractions import Fraction

    from steadyedit.standalone.graph import put_video, read_graph
    from steadyedit.toyworld import render, sample_scene
    from steadyedit.video.write import write_clip

    clip, path = folder / "clip.mp4", folder / "graph.json"
    if path.exists():
        return path
    write_clip(clip, render(sample_scene(3, "demo", frames=frames, size=SIDE)).frames, Fraction(8))
    graph = read_graph("toy_via_global")
    kinds = {node["class_type"]: key for key, node in graph.items()}
    for node in graph.values():
        if node["inputs"].get("model") == [kinds["SteadyEditTestTimeAdapt"], 0]:
            node["inputs"]["model"] = [kinds["SteadyEditToyEditor"], 0]
    graph[kinds["BasicScheduler"]]["inputs"]["steps"] = steps
    graph[kinds["SteadyEditGatherSwap"]]["inputs"]["group"] = 2
    graph[kinds["SteadyEditToyClip"]]["inputs"]["size"] = SIDE
    put_video(graph, str(clip), whole=True)
    path.write_text(json.dumps(graph))
    return path


def tried(graph: Path, output: Path, processes: int, kill: tuple[int, float, str] | None = None
          ) -> tuple[str | None, str]:  # fmt: skip
    """Run the command; the hash of its frames if it came so far, and what it said.

    Args:
        kill: so many windows are on the disk and all processes have begun, then seconds later, and whom.
    """
    output.mkdir(exist_ok=True)
    for old in (*output.glob(PIDS + "*"), *output.glob(DONE)):
        old.unlink()
    wanted = [PIDS + str(rank) for rank in range(processes)] if processes > 1 else [PIDS + "command"]
    command = [sys.executable, __file__, "--child", "run", str(graph), "--stream", str(WINDOW), "--output", str(output),
               *(["--processes", str(processes)] if processes > 1 else [])]  # fmt: skip
    import torch

    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                               env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
                               start_new_session=True)  # fmt: skip
    if kill:
        while process.poll() is None and not (all((output / name).is_file() for name in wanted)
                                              and windows(output) >= kill[0]):  # fmt: skip
            time.sleep(0.005)
        time.sleep(kill[1])
        end(process, output, kill[2])
    said = process.communicate()[1]
    found = (output / DONE).read_text() if (output / DONE).is_file() else None
    return found, "\n".join(line for line in said.splitlines() if line.startswith("steadyedit: "))


def windows(output: Path) -> int:
    """Finished windows on the disk."""
    return len(list(output.glob(".*.windows/*.window")))


def end(process: subprocess.Popen, output: Path, who: str) -> None:
    """SIGKILL for one or all of a command's processes, if they are there."""
    name = {"the first": "0", "the second": "1", "the command": "command"}.get(who)
    try:
        if name is None:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            os.kill(int((output / (PIDS + name)).read_text()), signal.SIGKILL)
    except (ProcessLookupError, FileNotFoundError):
        pass


def main(moments: int = 10, seed: int = 0) -> int:
    """Kill as many times as asked, spread over the windows, each at a random moment of a window's work."""
    set_up()
    draw, number = random.Random(seed), -(-LONG // WINDOW)
    with tempfile.TemporaryDirectory() as place:
        graph = graph_of(Path(place), steps=10, frames=LONG)
        expected, _ = tried(graph, Path(place) / "whole", 1)
        print("one process is through", flush=True)
        cut, good = Path(place) / "cut", True
        for moment in range(moments):
            # Never before there is a window to go on with; where a kill leaves others that finish, it begins anew.
            least = 1 + moment * (number - 1) // moments
            who, after, before = WHO[moment % len(WHO)], draw.uniform(0, MOST), windows(cut)
            found, said = tried(graph, cut, 2, (least, after, who))
            good &= found in (None, expected)
            print(f"{who} killed {after:.2f} s after window {least} of {number} was kept, {before} were there at its "
                  f"start and {windows(cut)} at its end; video {'written' if found else 'not yet'}; "
                  f"{said or 'nothing said'}", flush=True)  # fmt: skip
        found, said = tried(graph, cut, 2)
        good &= found == expected and found is not None
        print(f"at last: frames {'equal' if good else 'DIFFER'} {said}")
    return int(not good)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        raise SystemExit(child(sys.argv[2:]))
    raise SystemExit(main(*map(int, sys.argv[1:])))
