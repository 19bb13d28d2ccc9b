"""API-format graphs: read one, find a node, set an input, put a video file in a clip's place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Graph = dict[str, dict[str, Any]]

CLIP, LOAD_VIDEO, LOAD_FRAMES, CREATE_VIDEO = (
    "SteadyEditToyClip", "LoadVideo", "SteadyEditLoadFrames", "CreateVideo")  # fmt: skip
#: Outputs of SteadyEditToyClip that a file can give, and where SteadyEditLoadFrames gives them.
CLIP_TO_FRAMES = {0: 0, 5: 2}
AUDIO_OUTPUT = 1


class GraphError(ValueError):
    """A graph that cannot run, in one sentence."""


def read_graph(path: Path) -> Graph:
    """Nodes of an API-format file by id.

    Raises:
        GraphError: no such file, no JSON, or the editor's format instead of the API's.
    """
    try:
        graph = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise GraphError(f"{path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise GraphError(f"{path}: is no JSON ({error}).") from error
    if isinstance(graph, dict) and isinstance(graph.get("nodes"), list):
        raise GraphError(f"{path}: is in the editor's format; give the API form (workflows/api, or Export (API)).")
    if not isinstance(graph, dict) or not graph:
        raise GraphError(f"{path}: holds no nodes.")
    for key, node in graph.items():
        if not isinstance(node, dict) or "class_type" not in node:
            raise GraphError(f"{path}: node {key} names no class_type.")
        node.setdefault("inputs", {})
    return graph


def title_of(node: dict[str, Any]) -> str:
    """The title that the editor shows."""
    return node.get("_meta", {}).get("title") or node["class_type"]


def label(graph: Graph, key: str) -> str:
    """How messages name a node."""
    return f'node {key} "{title_of(graph[key])}"'


def is_link(value: Any) -> bool:
    """Whether an input is ``[node id, output index]``."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


def find_node(graph: Graph, name: str) -> str:
    """The id of a node given by id or by title.

    Raises:
        GraphError: no node, or several nodes, of that title.
    """
    if name in graph:
        return name
    keys = [key for key, node in graph.items() if title_of(node) == name]
    if len(keys) == 1:
        return keys[0]
    if keys:
        raise GraphError(f"{len(keys)} nodes are called '{name}' (ids {', '.join(keys)}): give an id.")
    known = ", ".join(f"{key} '{title_of(node)}'" for key, node in graph.items())
    raise GraphError(f"no node is called '{name}'; there are {known}.")


def set_input(graph: Graph, assignment: str) -> tuple[str, str]:
    """Apply ``NODE.INPUT=VALUE``; VALUE is read as JSON where it is JSON, else as text.

    Returns:
        node id and input, for a host to check.

    Raises:
        GraphError: it is not of that form, or names no node.
    """
    target, equals, text = assignment.partition("=")
    name, dot, field = target.rpartition(".")
    if not equals or not dot or not name or not field:
        raise GraphError(f"--set {assignment}: expected NODE.INPUT=VALUE.")
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    key = find_node(graph, name)
    graph[key]["inputs"][field] = value
    return key, field


def put_video(graph: Graph, file: str, whole: bool = False) -> None:
    """Let a file take the place of the graph's clip.

    A LoadVideo gets the file. Otherwise the pictures and the frame rate of the toy clip come
    from the file, cut to the clip's frames (unless ``whole``) and size, and its sound goes into
    every video that the graph creates without one.

    Raises:
        GraphError: the graph has no one node to replace.
    """
    loaders = [key for key, node in graph.items() if node["class_type"] == LOAD_VIDEO]
    clips = [key for key, node in graph.items() if node["class_type"] == CLIP]
    if len(loaders) == 1:
        graph[loaders[0]]["inputs"]["file"] = file
        return
    if loaders or len(clips) != 1:
        raise GraphError(f"--video needs one {LOAD_VIDEO} or one {CLIP} in the graph; "
                         f"it has {len(loaders)} and {len(clips)}.")
    clip = clips[0]
    settings = graph[clip]["inputs"]
    load, frames = f"{clip}:video", f"{clip}:frames"
    for node in graph.values():
        for field, value in node["inputs"].items():
            if is_link(value) and value[0] == clip and value[1] in CLIP_TO_FRAMES:
                node["inputs"][field] = [frames, CLIP_TO_FRAMES[value[1]]]
        if node["class_type"] == CREATE_VIDEO:
            node["inputs"].setdefault("audio", [frames, AUDIO_OUTPUT])
    graph[load] = {"class_type": LOAD_VIDEO, "inputs": {"file": file}, "_meta": {"title": "Video file"}}
    graph[frames] = {
        "class_type": LOAD_FRAMES,
        "inputs": {"video": [load, 0], "start": 0, "count": 0 if whole else settings.get("frames", 8), "stride": 1,
                   "size": settings.get("size", 128)},
        "_meta": {"title": "Frames of the video"},
    }
