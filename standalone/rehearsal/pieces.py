"""What there is to rehearse: shipped graphs, and blueprints between a video and its saving."""

from __future__ import annotations

import json
from pathlib import Path

from ..graph import Graph, GraphError, read_graph, shipped
from .files import wanted

BLUEPRINTS = Path(__file__).parents[2] / "subgraphs" / "api"


def pieces() -> dict[str, Path]:
    """Everything that can be rehearsed, by name."""
    return {**shipped(), **{path.stem: path for path in sorted(BLUEPRINTS.glob("*.json"))}}


def real_pieces() -> list[str]:
    """Names of those that load model files, which nobody has who only cloned the pack."""
    return [name for name in pieces() if wanted(read_piece(name))]


def read_piece(name: str) -> Graph:
    """A graph by its name; a blueprint is made whole as a user would, by a video and its saving.

    Raises:
        GraphError: there is none of that name.
    """
    path = pieces().get(name)
    if path is None:
        raise GraphError(f"there is no graph '{name}'; there are {', '.join(pieces())}.")
    if path.parent != BLUEPRINTS:
        return read_graph(path)
    return whole(json.loads(path.read_text(encoding="utf-8")))


def whole(blueprint: dict) -> Graph:
    """A blueprint's graph with loaders at its inputs and SaveVideo at its video."""
    shown = blueprint.pop("_blueprint")
    graph: Graph = blueprint
    for label, targets in shown["inputs"].items():
        link = _loader(graph, label)
        for key, field in targets:
            graph[key]["inputs"][field] = link
    graph["save"] = {"class_type": "SaveVideo", "_meta": {"title": "Save Video"}, "inputs": {
        "video": shown["outputs"]["video"], "filename_prefix": "steadyedit/blueprint", "format": "mp4",
        "codec": "auto"}}  # fmt: skip
    return graph


def _loader(graph: Graph, label: str) -> list:
    """A node, or a few, that give an input of that name."""
    def put(key: str, kind: str, **inputs: object) -> list:
        graph[key] = {"class_type": kind, "inputs": dict(inputs), "_meta": {"title": f"For {label}"}}
        return [key, 0]

    if "mask" in label:
        video = put("mask video", "LoadVideo", file="mask.mp4")
        frames = put("mask frames", "SteadyEditLoadFrames", video=video, start=0, count=0, stride=1, size=0,
                     fit="crop", background="black")
        return put("mask", "ImageToMask", image=frames, channel="red")
    if "frame" in label:
        return put("picture", "LoadImage", image="edited_first_frame.png")
    if "video" not in label:
        raise GraphError(f"the blueprint's input '{label}' is none that the rehearsal can give.")
    return put("video file", "LoadVideo", file="clip.mp4")


def needed_before(graph: Graph) -> list[str]:
    """Shipped graphs that save the tuned weights which this one loads."""
    loaded = {str(node["inputs"].get("name")) for node in graph.values() if node["class_type"] == "SteadyEditLoadTuned"}
    found = []
    for name, path in shipped().items():
        saved = [node["inputs"].get("filename_prefix") for node in read_graph(path).values()
                 if node["class_type"] == "SteadyEditSaveTuned"]
        if loaded & {f"{prefix}_00001.safetensors" for prefix in saved}:
            found.append(name)
    return found
