"""Runs a shipped graph on real weights in a ComfyUI of its own and writes what it gave."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from copy import deepcopy
from importlib import metadata
from pathlib import Path
from typing import Any

from ...files.names import safe_name
from ..comfy_host import bring_files, send
from ..comfy_process import Host, running
from ..graph import Graph, GraphError, put_video, read_graph, set_input, shipped, title_of
from ..rehearsal.files import wanted
from .predicted import Prediction, predicted
from .prepare import check_models, measuring, put_own_clip, resolved, vision_file
from .privacy import Cleaner
from .report import write_folder

HOST_PACK = Path(__file__).parents[1] / "host_meter"
PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def verify(name: str, comfy: Path, models: Path, video: Path | None, settings: Sequence[str],
           folder: Path) -> tuple[list[Path], str | None]:  # fmt: skip
    """Run a graph and write the folder.

    Args:
        name: of a shipped graph.
        comfy: folder of a ComfyUI.
        models: its folder of models, or another of the same form. Nothing is written into it but what the graph's
            trainings keep there by themselves.
        video: in the place of our own clip.
        settings: ``NODE.INPUT=VALUE`` each.
        folder: for what is shared.

    Returns:
        The files, and the sentence with which the graph stopped; None if it ran whole.

    Raises:
        GraphError: there is no such graph, or model files are missing; nothing is written then.
    """
    if name not in shipped():
        raise GraphError(f"verify: there is no shipped graph '{name}'; there are {', '.join(shipped())}.")
    graph = read_graph(name)
    as_shipped = deepcopy(graph)
    with tempfile.TemporaryDirectory(prefix="steadyedit-verify-") as temporary:
        place = Path(temporary)
        if video is None:
            put_own_clip(graph, place)
        else:
            # Under a name of ours: a file's own name may say whose it is.
            alias = place / f"clip{video.suffix}"
            alias.symlink_to(video.absolute())
            put_video(graph, str(alias))
        changed = dict(_changed(graph, *set_input(graph, text)) for text in settings)
        graph = resolved(graph)
        check_models(graph, models)
        prepared = measuring(graph, place, vision_file(models))
        own = [video.name] if video else []
        cleaner = Cleaner([models.absolute(), comfy.absolute(), Path.cwd(), temporary, *own])
        (place / "output").mkdir()
        with running(comfy, place / "output", models=models, packs=[HOST_PACK]) as host:
            bring_files(graph, host)
            because, history = None, {}
            try:
                history = send(graph, host)
            except GraphError as error:
                because = cleaner.text(str(error))
            about, measured = _about(host), host.ask("/steadyedit/meter")
        frames = _frames(prepared.kept)
        size = tuple(int(n) for n in frames["size"]) if frames else ()
        expected = predicted(graph, size, measured["device"]) if size else {}
        report = {
            "graph": name, "because": because, "own_clip": video is None, "size": list(size), "changed": changed,
            "pack": _pack(), "host": about, "device": measured["device"],
            "models": _model_files(graph, as_shipped, models),
            "metrics": _metrics(history, prepared.metrics),
            "nodes": [_node(one, graph, expected) for one in measured["nodes"]],
        }  # fmt: skip
        return write_folder(folder, cleaner.value(report), frames or None), because


def _changed(graph: Graph, key: str, field: str) -> tuple[str, Any]:
    """A value that the user set; of texts only that there is one, since anything may stand in them."""
    value = graph[key]["inputs"][field]
    return f"{title_of(graph[key])}.{field}", value if isinstance(value, (bool, int, float)) else "(a text)"


def _about(host: Host) -> dict[str, Any]:
    """Versions and card; of what the host tells, only what is named here."""
    stats = host.ask("/system_stats")
    system, devices = stats["system"], stats["devices"] or [{}]
    return {
        "comfyui": system.get("comfyui_version"), "python": str(system.get("python_version")).split()[0],
        "pytorch": system.get("pytorch_version"), "system": system.get("os"),
        "memory_gib": (system.get("ram_total") or 0) / 2**30, "device": devices[0].get("name", "unknown"),
        "device_gib": (devices[0].get("vram_total") or 0) / 2**30,
    }  # fmt: skip


def _pack() -> dict[str, Any]:
    from ...benchmarks.common.report import commit

    try:
        version = metadata.version("steadyedit")
    except metadata.PackageNotFoundError:
        # A clone says it in its project file.
        project = PROJECT.read_text(encoding="utf-8") if PROJECT.is_file() else ""
        found = re.search(r'^version = "(.+)"', project, re.M)
        version = found[1] if found else "unknown"
    return {"version": version, "commit": commit()}


def _model_files(graph: Graph, as_shipped: Graph, models: Path) -> dict[str, float]:
    """Size in GB by name; a file that the shipped graph does not name is told by its folder alone."""
    known = {one.name for one in wanted(as_shipped)}
    found = {}
    for one in wanted(graph):
        path = models / one.folder / one.name
        files = [path] if path.is_file() else [part for part in path.rglob("*") if part.is_file()]
        shown_name = one.name if one.name in known else f"another of {one.folder}"
        found[shown_name] = sum(part.stat().st_size for part in files) / 1e9
    return found


def _frames(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    from safetensors.torch import load_file

    return load_file(path)


def _metrics(history: Mapping[str, Any], key: str) -> dict[str, Any]:
    """What Clip Metrics showed, by name: a number, or words."""
    shown = history.get("outputs", {}).get(key, {}).get("text") or ()
    found: dict[str, Any] = {}
    for line in "\n".join(shown).splitlines():
        name, _, value = line.partition(": ")
        number = value.split(" dB")[0].split(" (")[0]
        try:
            found[name] = json.loads(number)
        except ValueError:
            found[name] = value
    return found


def _node(one: Mapping[str, Any], graph: Graph, expected: Mapping[str, Prediction]) -> dict[str, Any]:
    """What a node took beside what was predicted for it."""
    node, prediction = graph.get(one["node"]), expected.get(one["node"])
    title, kind = (title_of(node), node["class_type"]) if node else ("a node of another one", "")
    return {**one, "title": title, "class": kind, "predicted_seconds": prediction.seconds if prediction else None,
            "predicted_gib": prediction.gib if prediction else None}


def default_folder(name: str) -> Path:
    """Where the folder lies if none is named."""
    return Path("output") / f"verify_{safe_name(name)}"
