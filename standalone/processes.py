"""Processes of one command on this machine: begun together, and when one of them dies the others go on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from .graph import GraphError
from .team import MET

MARK = "steadyedit: "
#: Seconds between two looks at whether all processes are alive.
LOOK = 0.1
AGAIN = "The same command goes on where it stopped, in fewer processes too."


def launch(count: int, arguments: Sequence[str]) -> int:
    """Run this package's command line in ``count`` processes, as torchrun would; returns the exit code.

    The first one speaks for all. One that dies is told of, and the others do its windows; where it was the first one,
    which writes the video, one more process does what is left. Where one is killed before it has met the others, they
    would wait for it, and are ended.

    Args:
        arguments: of the command, as each process is to have them.

    Raises:
        GraphError: ``count`` below 1.
    """
    if count < 1:
        raise GraphError(f"--processes: at least 1 is needed, but got {count}.")
    with tempfile.TemporaryDirectory() as place:
        outputs, met = [Path(place) / f"{rank}" for rank in range(count)], Path(place) / "met"
        met.mkdir()
        running = _started(count, arguments, outputs, met)
        try:
            codes, missed = _codes(running, met)
        except KeyboardInterrupt:
            # The terminal has told all of them.
            for process in running:
                process.wait()
            return 130
        failed = [rank for rank in range(1, count) if codes[rank]]
        sentences = {rank: _last_sentence(outputs[rank]) for rank in failed}
    if missed is not None:
        print(f"{MARK}{_lost(missed, count, codes[missed], None)}. {AGAIN}", file=sys.stderr)
        return 1
    if codes[0] > 0:
        return codes[0]  # it has said why
    lost = [_lost(rank, count, codes[rank], sentences.get(rank)) for rank in range(count) if codes[rank]]
    if codes[0] == 0:
        for sentence in lost:
            print(f"{MARK}{sentence}; the others went on with its windows.", file=sys.stderr)
        return 0
    if failed:
        print(f"{MARK}{lost[0]}. {AGAIN}", file=sys.stderr)
        return 1
    print(f"{MARK}{lost[0]}; the others finished its windows, and the video is written now.", file=sys.stderr)
    return subprocess.call(_command(arguments))


def without_option(arguments: Sequence[str], name: str) -> list[str]:
    """Arguments of the command line without an option and its value."""
    kept = list(arguments)
    for place in [number for number, word in enumerate(kept) if word == name]:
        kept[place : place + 2] = []
    return [word for word in kept if not word.startswith(name + "=")]


def _command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", __package__.split(".")[0], *arguments]


def _codes(running: Sequence[subprocess.Popen], met: Path) -> tuple[list[int], int | None]:
    """Exit codes of all, and the number of one that was killed before it had met the others."""
    missed: int | None = None
    while None in [process.poll() for process in running]:
        gone = [rank for rank, process in enumerate(running)
                if (process.returncode or 0) < 0 and not (met / str(rank)).exists()]  # fmt: skip
        if gone and missed is None:
            missed = gone[0]
            for process in running:
                process.terminate()
        time.sleep(LOOK)
    return [process.returncode for process in running], missed


def _started(count: int, arguments: Sequence[str], outputs: Sequence[Path], met: Path) -> list[subprocess.Popen]:
    """All processes; what others than the first one say goes into files."""
    threads = max(1, (os.cpu_count() or 1) // count)
    shared = {"OMP_NUM_THREADS": str(threads), **os.environ, "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
              "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), MET: str(met)}  # fmt: skip
    running = []
    for rank in range(count):
        own = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        with outputs[rank].open("wb") as file:
            out: IO | None = file if rank else None
            running.append(subprocess.Popen(_command(arguments), env=own, stdout=out, stderr=out))
    return running


def free_port() -> int:
    """A TCP port of this machine that nobody listens on now."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def _last_sentence(path: Path) -> str:
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.startswith(MARK)]
    return lines[-1].removeprefix(MARK).rstrip(".") if lines else ""


def _lost(rank: int, count: int, code: int, sentence: str | None) -> str:
    who = f"process {rank + 1} of {count}"
    if code > 0:
        return f"{who} stopped ({sentence or f'exit code {code}'})"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"{who} was ended by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")
