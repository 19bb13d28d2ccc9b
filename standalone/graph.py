"""API-format graphs: read one, find a node, set an input, put a video file in a clip's place."""

from __future__ import annotations

import json
import math
import re
import textwrap
from pathlib import Path
from typing import Any

Graph = dict[str, dict[str, Any]]

CLIP, LOAD_VIDEO, LOAD_FRAMES, CREATE_VIDEO = (
    "SteadyEditToyClip", "LoadVideo", "SteadyEditLoadFrames", "CreateVideo")  # fmt: skip
#: Outputs of SteadyEditToyClip that a file can give, and where SteadyEditLoadFrames gives them.
CLIP_TO_FRAMES = {0: 0, 5: 2}
AUDIO_OUTPUT = 1
#: Letters of a line about a graph.
LINE = 138
GRAPHS = Path(__file__).parents[1] / "workflows" / "api"


class GraphError(ValueError):
    """A graph that cannot run, in one sentence."""


def shipped() -> dict[str, Path]:
    """The graphs that come with the pack, by name."""
    return {path.stem: path for path in sorted(GRAPHS.glob("*.json"))}


def one_line(path: Path) -> str:
    """What a shipped graph's note says it is: heading, first sentence on what happens; "" without a note."""
    try:
        lines = path.with_suffix(".md").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    heading, paragraph = [line.strip("# ").replace("*", "") for line in lines if line.strip()][:2]
    # Toy graphs begin with what the list says of all of them: press Run, no download.
    first = next((one for one in re.split(r"(?<=\.) ", paragraph) if not one.startswith("Press Run")), paragraph)
    line = f"{heading}. {first}"
    # Too long a sentence ends where a part of it does.
    ends = [found.start() for found in re.finditer(r"[,;:] | \(", line) if len(heading) + 2 < found.start() < LINE]
    ends = [end for end in ends if line.count("(", 0, end) == line.count(")", 0, end)]
    return line if len(line) <= LINE else line[: ends[-1]] + "." if ends else textwrap.shorten(line, LINE)


def needs_models(path: Path) -> bool:
    """Whether a graph loads files of models that do not come with the pack."""
    return any(str(value).endswith(".safetensors") for node in read_graph(path).values()
               for value in node["inputs"].values())  # fmt: skip


def read_graph(path: Path | str) -> Graph:
    """Nodes of an API-format file, or of a shipped graph named without path and ending, by id.

    Raises:
        GraphError: no such file, no JSON, the editor's format instead of the API's, or nodes that are none.
    """
    name, path = str(path), Path(path)
    if not path.exists() and name in shipped():
        path = shipped()[name]
    try:
        graph = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        hint = "" if path.suffix else "; `run --list` shows the shipped graphs"
        raise GraphError(f"{path}: cannot be read ({error.strerror}){hint}.") from error
    except (ValueError, RecursionError) as error:
        raise GraphError(f"{path}: is no JSON ({error}).") from error
    if isinstance(graph, dict) and isinstance(graph.get("nodes"), list):
        raise GraphError(f"{path}: is in the editor's format; give the API form (workflows/api, or Export (API)).")
    if not isinstance(graph, dict) or not graph:
        raise GraphError(f"{path}: holds no nodes.")
    for key, node in graph.items():
        _check_node(path, key, node)
    return graph


def _check_node(path: Path, key: str, node: Any) -> None:
    """Raise GraphError for a node that is none; what may be left out is filled in."""
    if not isinstance(node, dict) or "class_type" not in node:
        raise GraphError(f"{path}: node {key} names no class_type.")
    if not isinstance(node["class_type"], str):
        raise GraphError(f"{path}: node {key}: class_type must be a text, but is {_short(node['class_type'])}.")
    for part, kind in (("inputs", dict), ("_meta", dict)):
        if not isinstance(node.setdefault(part, {}), kind):
            raise GraphError(f"{path}: node {key}: {part} must map names to values, but is {_short(node[part])}.")
    if not isinstance(node["_meta"].get("title", ""), str):
        raise GraphError(f"{path}: node {key}: its title must be a text, but is {_short(node['_meta']['title'])}.")
    for name, value in node["inputs"].items():
        if isinstance(value, float) and not math.isfinite(value):
            raise GraphError(f"{path}: node {key}: input '{name}' is {value}, which is no number to work with.")


def check_links(graph: Graph) -> None:
    """Raise GraphError for a link to a node that is not there, or a circle."""
    waiting = {key: {value[0] for value in node["inputs"].values() if is_link(value)} for key, node in graph.items()}
    for key, sources in waiting.items():
        if missing := sorted(sources - graph.keys()):
            name = next(name for name, value in graph[key]["inputs"].items() if is_link(value) and value[0] in missing)
            raise GraphError(f"{label(graph, key)}: input '{name}' is linked to node {missing[0]}, which is not there.")
    while ready := [key for key, sources in waiting.items() if not sources & waiting.keys()]:
        for key in ready:
            del waiting[key]
    if waiting:
        raise GraphError(f"{label(graph, min(waiting))}: its inputs lead back to itself.")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def title_of(node: dict[str, Any]) -> str:
    """The title that the editor shows."""
    return node.get("_meta", {}).get("title") or node["class_type"]


def label(graph: Graph, key: str) -> str:
    """How messages name a node."""
    return f'node {key} "{title_of(graph[key])}"'


def is_link(value: Any) -> bool:
    """Whether an input is ``[node id, output index]``."""
    return (isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)
            and isinstance(value[1], int) and not isinstance(value[1], bool))


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
