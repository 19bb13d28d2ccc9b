"""A real ComfyUI on the GPU: its own memory management, with this pack's graphs."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

from ..comfy_host import run_on_host
from ..comfy_process import PACK, find_comfy, find_python, outer_environment, running
from ..graph import GraphError, read_graph, set_input
from .pieces import Compared, NotRun, Outcome, Run

#: Shipped graphs that train and sample, with inputs that make them short.
GRAPHS = {"toy_ei2": ("Tune on the clip.steps={steps}",), "toy_lora_edit": ("Mask-aware LoRA.steps={steps}",)}
#: What the host's log says of its memory management.
TELLING = ("dynamic", "vram", "aimdo", "device:", "pinned", "Total VRAM")


def host(where: Run) -> Outcome:
    """Graphs in a ComfyUI of its own: seconds by graph, and what the host says of its memory.

    Raises:
        NotRun: there is no ComfyUI.
    """
    comfy = _comfy()
    seconds = {}
    with running(comfy, where.folder) as process:
        about = process.ask("/system_stats")
        for name in list(GRAPHS)[: 1 if where.tiny else None]:
            graph = read_graph(name)
            steps = 1 if where.tiny else 100
            changed = [set_input(graph, text.format(steps=steps)) for text in GRAPHS[name]]
            begun = time.perf_counter()
            run_on_host(graph, process, where.folder, changed)
            seconds[name] = time.perf_counter() - begun
        log = process.log.read_text(errors="replace")
    telling = [line for line in log.splitlines() if any(word in line.lower() for word in TELLING)]
    devices = [{key: device.get(key) for key in ("name", "type", "vram_total", "vram_free")}
               for device in about.get("devices", [])]  # fmt: skip
    return Outcome({"seconds": seconds, "devices": devices, "log": telling[:40],
                    "version": about.get("system", {}).get("comfyui_version")})  # fmt: skip


def lora_edit(where: Run) -> Outcome:
    """Steps of training a LoRA on the host's Wan 14B, stored in fp8, as the preset of 16 GB lays it out.

    Raises:
        NotRun: there is no ComfyUI.
        RuntimeError: it failed; the last lines say how.
    """
    comfy, file = _comfy(), where.folder / "lora_edit_host.json"
    python = find_python(comfy)
    command = [python, str(PACK), "bench", "lora_edit_host", "--json", str(file)]
    command += ["--methods", "tiny", "--sizes", "5x32x32"] if where.tiny else []
    done = subprocess.run(command, env={**outer_environment(python), "COMFYUI_PATH": str(comfy)}, capture_output=True,
                          text=True)  # fmt: skip
    if done.returncode:
        raise RuntimeError(" / ".join((done.stdout + done.stderr).strip().splitlines()[-4:]))
    (row,) = json.loads(file.read_text(encoding="utf-8"))["rows"]
    return Outcome(row, (
        Compared("memory at the worst moment", "GiB", row["peak_gib"], row["told_gib"], 16.0),
        Compared("memory that PyTorch takes for it", "GiB", row["taken_gib"], goal=16.0),
        Compared("times that memory ran out", "", row["ran_out"], goal=0.0),
        Compared("a step", "s", row["step_seconds"]),
    ))  # fmt: skip


def _comfy() -> Path:
    """The ComfyUI of this machine.

    Raises:
        NotRun: there is none.
    """
    try:
        comfy = find_comfy()
    except GraphError as error:
        raise NotRun(str(error).rstrip(".")) from None
    if comfy is None:
        raise NotRun("no ComfyUI was found; set COMFYUI_PATH to its folder")
    return comfy
