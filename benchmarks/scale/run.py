"""Streamed gather-swap by length of clip and number of processes: ``python -m steadyedit bench scale``.

The command itself is measured from outside, with its start: wall clock, the processor time of all its processes, and
the largest one's memory. Finished rows stand in the JSON file at once, and the same command goes on behind them.

What more processes would give is paper: a + w F + (c - w) F / n for F frames and n processes, where a + c F is fitted
to one process, a (start, models) and the writing of the file w F, measured by itself, being what is not shared out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from ...toyworld import render, sample_scene
from ...video.write import write_clip
from ..common.report import meta, write_json
from .group_keys import group_keys

LENGTHS, PROCESSES = (60, 240, 1440), (1, 2)
SIDE, WINDOW, STEPS, SEED = 64, 60, 3, 3
#: For the paper figure.
MORE = (4, 8)


def main(json_path: Path | None = None, sizes: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print the tables, and write the numbers.

    Args:
        json_path: where the numbers go; rows that it has already are not measured again.
        sizes: lengths in frames, ``LENGTHS`` if None.

    Returns:
        what the JSON file holds.

    Raises:
        ValueError: a length that is none, or a run that failed.
    """
    lengths = [_length(size) for size in sizes or map(str, LENGTHS)]
    settings = {"side": SIDE, "window": WINDOW, "steps": STEPS, "threads": int(os.environ.get("OMP_NUM_THREADS", 1))}
    rows = _held(json_path, settings)
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        for frames in sorted(lengths):
            for processes in PROCESSES:
                if not any((row["frames"], row["processes"]) == (frames, processes) for row in rows):
                    rows.append(_measured(Path(place), frames, processes, settings))
                report = {"meta": meta(SEED, len(rows), settings=settings, cores=os.cpu_count()), "rows": rows}
                if json_path is not None:
                    write_json(json_path, report)
        if len(lengths) > 1:
            report["paper"] = _paper(rows, _writing(Path(place)))
        report["group"] = group_keys(SIDE)
    if json_path is not None:
        write_json(json_path, report)
    print(shown(report))
    return report


def shown(report: dict[str, Any]) -> str:
    """The tables in Markdown."""
    lines = ["| frames | processes | seconds | frames a second | processor seconds | largest process, MiB |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for row in report["rows"]:
        rate = row["frames"] / row["seconds"]
        lines.append(f"| {row['frames']} | {row['processes']} | {row['seconds']:.0f} | {rate:.2f} | "
                     f"{row['processor_seconds']:.0f} | {row['peak_mib']:.0f} |")
    if paper := report.get("paper"):
        lines += ["", f"Start {paper['start_seconds']:.1f} s, a frame {paper['frame_seconds']:.4f} s, of which its "
                  f"writing {paper['write_seconds']:.4f} s; serial share of {paper['frames']} frames "
                  f"{paper['serial_share']:.1%}."]  # fmt: skip
        lines += [f"{name} processes on as many cards, on paper: {speed:.1f} times as fast"
                  for name, speed in paper["speedup"].items()]
    if group := report.get("group"):
        lines += ["", f"The group's keys and values: {group['megabytes']:.1f} MB an evaluation; each computes them in "
                  f"{group['compute_seconds']:.3f} s, a broadcast by gloo takes {group['broadcast_seconds']:.3f} s "
                  "behind the one that computed them."]  # fmt: skip
    return "\n".join(lines)


def _length(text: str) -> int:
    if not text.isdigit() or int(text) < 4:
        raise ValueError(f"sizes: expected lengths in frames such as 60,240, from 4 on, but got {text!r}.")
    return int(text)


def _held(path: Path | None, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of an interrupted bench with these settings."""
    if path is None or not Path(path).is_file():
        return []
    held = json.loads(Path(path).read_text(encoding="utf-8"))
    return held["rows"] if held["meta"].get("settings") == settings else []


def _clip(place: Path, frames: int) -> Path:
    path = place / f"{frames}.mp4"
    if not path.exists():
        slow = render(sample_scene(SEED, "demo", frames=min(frames, 60), size=SIDE)).frames
        back_and_forth = torch.cat([slow, slow.flip(0)])
        repeated = back_and_forth.repeat(-(-frames // len(back_and_forth)), 1, 1, 1)[:frames]
        write_clip(path, repeated, Fraction(24))
    return path


def _measured(place: Path, frames: int, processes: int, settings: dict[str, Any]) -> dict[str, Any]:
    """One run of the command."""
    package = __package__.split(".")[0]
    # The editor as it is: adaptation trains once, whatever the length.
    command = [
        sys.executable, "-m", package, "run", "toy_via_global", "--video", str(_clip(place, frames)),
        "--set", "9.model=[\"1\", 0]", "--set", f"15.steps={STEPS}", "--set", f"2:frames.size={SIDE}",
        "--stream", str(WINDOW), "--output", str(place / f"{frames} by {processes}"),
        *(["--processes", str(processes)] if processes > 1 else []),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": str(settings["threads"])}
    began = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            last = output.read().decode(errors="replace").strip().splitlines()[-1:]
            raise ValueError(f"scale: {frames} frames by {processes} processes failed: {' '.join(last)}")
    return {
        "frames": frames, "processes": processes, "seconds": time.perf_counter() - began,
        "processor_seconds": usage.ru_utime + usage.ru_stime, "peak_mib": usage.ru_maxrss / 1024,
    }  # fmt: skip


def _writing(place: Path, frames: int = 240) -> float:
    """Seconds a frame that the file's writing takes."""
    path = place / "written.mp4"
    pictures = torch.rand(frames, SIDE, SIDE, 3)
    began = time.process_time()
    write_clip(path, pictures, Fraction(24))
    return (time.process_time() - began) / frames


def _paper(rows: Sequence[dict[str, Any]], write: float) -> dict[str, Any]:
    """What more cards would give by the share of the processor's time that is not shared out."""
    alone = sorted((row["frames"], row["processor_seconds"]) for row in rows if row["processes"] == 1)
    (short, least), (frames, most) = alone[0], alone[-1]
    each = (most - least) / (frames - short)
    start = max(0.0, least - each * short)
    whole = start + each * frames
    serial = start + write * frames
    return {
        "frames": frames, "start_seconds": start, "frame_seconds": each, "write_seconds": write,
        "serial_share": serial / whole,
        "speedup": {str(count): whole / (serial + (whole - serial) / count) for count in MORE},
    }  # fmt: skip
