"""A real ComfyUI on the GPU: its own memory management, with this pack's graphs."""

from __future__ import annotations

import time

from ..comfy_host import run_on_host
from ..comfy_process import find_comfy, running
from ..graph import GraphError, read_graph, set_input
from .pieces import NotRun, Outcome, Run

#: Shipped graphs that train and sample, with inputs that make them short.
GRAPHS = {"toy_ei2": ("Tune on the clip.steps={steps}",), "toy_lora_edit": ("Mask-aware LoRA.steps={steps}",)}
#: What the host's log says of its memory management.
TELLING = ("dynamic", "vram", "aimdo", "device:", "pinned", "Total VRAM")


def host(where: Run) -> Outcome:
    """Graphs in a ComfyUI of its own: seconds by graph, and what the host says of its memory.

    Raises:
        NotRun: there is no ComfyUI.
    """
    try:
        comfy = find_comfy()
    except GraphError as error:
        raise NotRun(str(error).rstrip(".")) from None
    if comfy is None:
        raise NotRun("no ComfyUI was found; set COMFYUI_PATH to its folder")
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
    told = [line for line in log.splitlines() if any(word in line.lower() for word in TELLING)]
    devices = [{key: device.get(key) for key in ("name", "type", "vram_total", "vram_free")}
               for device in about.get("devices", [])]  # fmt: skip
    return Outcome({"seconds": seconds, "devices": devices, "log": told[:40],
                    "version": about.get("system", {}).get("comfyui_version")})  # fmt: skip
