"""Runs the pieces one after another, each in a process of its own, and writes one JSON and one page."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...benchmarks.common.report import meta, write_json
from ...files.writing import write_bytes
from .page import page
from .pieces import LONGEST, NotRun, Piece, Run
from .table import PIECES

ROOT = Path(__file__).parents[2]
DONE, NOT_RUN, FAILED = "done", "not run", "failed"
#: Seconds kept back for the page.
RESERVE = 5.0


def main(
    output: Path, minutes: float = 25.0, tiny: bool = False, wheels: Path | None = None,
    only: Sequence[str] | None = None, apart: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Run what has no result yet, and write ``gpu.json`` and ``gpu.md``.

    Args:
        output: where everything goes; what is there already is not run again.
        minutes: for all pieces of this call.
        tiny: rehearse on the CPU.
        wheels: folder of wheels that are put on the path of the pieces.
        only: names of ``PIECES``; all if None.
        apart: a process for each piece, so that none can end the others.

    Raises:
        ValueError: no GPU and no rehearsal, an unknown piece, a folder without wheels, or results of another kind.
    """
    chosen = _chosen(only)
    if not minutes > 0:
        raise ValueError(f"minutes: expected a number above 0, but got {minutes}.")
    if not tiny and not _has_cuda():
        raise ValueError("gpu: no CUDA device was found; `gpu --tiny` rehearses everything on the CPU.")
    output = output.absolute()
    results = output / "pieces"
    results.mkdir(parents=True, exist_ok=True)
    _check_kind(output, tiny)
    path = _unpacked(wheels, output / "wheels") if wheels else None
    end = time.monotonic() + 60 * minutes - RESERVE
    rows = []
    for piece in PIECES:
        known = _known(results, piece)
        if known is None and piece in chosen:
            left = end - time.monotonic()
            if left < (0 if tiny else piece.least):
                known = _row(piece, NOT_RUN, because="no time was left; the same command goes on")
            else:
                print(f"{piece.title} ...", flush=True)
                known = (_apart(piece, output, tiny, path, min(LONGEST, left)) if apart
                         else run_piece(piece, output, tiny))  # fmt: skip
                print(f"  {known['status']}" + (f", because {known['because']}" if "because" in known else ""),
                      flush=True)  # fmt: skip
        rows.append(known or _row(piece, NOT_RUN, because="it was not asked for"))
    report = {"meta": meta(0, len(rows), tiny=tiny), "pieces": rows}
    write_json(output / "gpu.json", report)
    write_bytes(output / "gpu.md", page(report).encode())
    print(f"numbers: {output / 'gpu.json'}\npage: {output / 'gpu.md'}")
    return report


def run_piece(piece: Piece, output: Path, tiny: bool) -> dict[str, Any]:
    """Run one piece here, and leave its result if it has one."""
    folder = output / piece.name
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    try:
        outcome = piece.run(Run(tiny, folder))
    except NotRun as reason:
        row = _row(piece, NOT_RUN, because=str(reason))
    except Exception as error:  # whatever it is, the other pieces go on
        message = str(error).strip() or type(error).__name__
        row = _row(piece, FAILED, because=f"{type(error).__name__}: {message}")
    else:
        compared = [replace(one, goal=None) if tiny else one for one in outcome.compared]
        row = _row(piece, DONE, seconds=time.perf_counter() - begun, numbers=dict(outcome.numbers),
                   compared=[one.as_dict() for one in compared])  # fmt: skip
    write_json(output / "pieces" / f"{piece.name}.json", row)
    return row


def _apart(piece: Piece, output: Path, tiny: bool, path: Path | None, seconds: float) -> dict[str, Any]:
    """Run one piece in a process of its own, which ends after so many seconds at the latest."""
    command = [sys.executable, str(ROOT), "gpu", "--piece", piece.name, "--output", str(output)]
    command += ["--tiny"] if tiny else []
    places = [str(path)] if path else []
    places += [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    log = output / piece.name / "log.txt"
    log.parent.mkdir(exist_ok=True)
    file = output / "pieces" / f"{piece.name}.json"
    file.unlink(missing_ok=True)
    with open(log, "wb") as sink:
        # A group of its own: what it starts ends with it.
        process = subprocess.Popen(command, env=environment, stdout=sink, stderr=subprocess.STDOUT,
                                   stdin=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
        try:
            code = process.wait(seconds)
        except KeyboardInterrupt:
            _end(process)
            raise
        except subprocess.TimeoutExpired:
            _end(process)
            return _row(piece, NOT_RUN, because=f"it was not done after {seconds:.0f} s; the same command goes on")
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    tail = " / ".join(log.read_text(errors="replace").strip().splitlines()[-4:])
    return _row(piece, FAILED, because=f"its process ended with {code}: {tail}")


def _end(process: subprocess.Popen) -> None:
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def _row(piece: Piece, status: str, **more: Any) -> dict[str, Any]:
    return {"name": piece.name, "title": piece.title, "status": status, **more}


def _known(results: Path, piece: Piece) -> dict[str, Any] | None:
    """The result that an earlier call left; what failed or could not run is tried again."""
    try:
        row = json.loads((results / f"{piece.name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return row if row.get("status") == DONE else None


def _chosen(only: Sequence[str] | None) -> list[Piece]:
    known = {piece.name: piece for piece in PIECES}
    if unknown := [name for name in only or () if name not in known]:
        raise ValueError(f"only: there is no {', '.join(unknown)}; there are {', '.join(known)}.")
    return [known[name] for name in only] if only else list(PIECES)


def _check_kind(output: Path, tiny: bool) -> None:
    """Results of a rehearsal and of a GPU never lie in one folder."""
    note = output / "kind.json"
    if note.is_file():
        if json.loads(note.read_text(encoding="utf-8"))["tiny"] != tiny:
            raise ValueError(f"output: {output} holds results {'of a GPU' if tiny else 'of a rehearsal (--tiny)'}; "
                             "name another folder.")
    else:
        write_json(note, {"tiny": tiny})


def _unpacked(wheels: Path, target: Path) -> Path:
    """The wheels of a folder, installed into one that goes on the path. Nothing is downloaded."""
    found = sorted(wheels.glob("*.whl")) if wheels.is_dir() else []
    if not found:
        raise ValueError(f"wheels: {wheels} holds no *.whl file.")
    if not target.is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index",
                   "--no-deps", "--target", str(target), *map(str, found)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"wheels: pip could not install them: {done.stderr.strip().splitlines()[-1]}")
    return target


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()
