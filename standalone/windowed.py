"""A graph as the one that is run for every window: what it reads, what runs once, what is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from ..methods.via.candidates import chosen_frame
from ..methods.via.gather_swap import GatherSwap
from ..nodes.checks import whole_numbers
from .executor import order_of
from .graph import LOAD_FRAMES, LOAD_VIDEO, Graph, GraphError, is_link, label
from .stream_checks import check_nodes
from .window_nodes import COLLECT, INVERT, WINDOW, Source

COMPONENTS, GATHER_SWAP, INVERSION, ROOT, SAVE_VIDEO = (
    "GetVideoComponents", "SteadyEditGatherSwap", "SteadyEditDDIMInversion", "SteadyEditRootCandidates", "SaveVideo",
)  # fmt: skip
#: Output of RootCandidates that is the frame's number.
ROOT_FRAME = 3


def sources_of(graph: Graph, find: Callable[[str], Path]) -> list[Source]:
    """All nodes that take frames from a file.

    Raises:
        GraphError: there is none.
    """
    found = []
    for key, node in graph.items():
        link = node["inputs"].get("video")
        if node["class_type"] in (LOAD_FRAMES, COMPONENTS) and is_link(link):
            loader = graph[link[0]]
            if loader["class_type"] == LOAD_VIDEO:
                found.append(Source(key, find(loader["inputs"]["file"]), node["inputs"]))
    if not found:
        raise GraphError("--stream: no node of the graph takes frames from a file; name one by --video.")
    return found


def one(graph: Graph, kind: str) -> str:
    """The id of the only node of a class."""
    keys = [key for key, node in graph.items() if node["class_type"] == kind]
    if len(keys) != 1:
        raise GraphError(f"--stream: needs one {kind} in the graph; it has {len(keys)}.")
    return keys[0]


def without_frames(graph: Graph, order: list[str], sources: list[Source], roots: Collection[str]) -> set[str]:
    """Ids of nodes that give the same for every window: they see no frames but through the root."""
    seeing = {source.key for source in sources}
    for key in order:
        inputs = (value[0] for value in graph[key]["inputs"].values() if is_link(value))
        if key not in roots and any(before in seeing for before in inputs):
            seeing.add(key)
    return set(order) - seeing


def windowed(graph: Graph, sources: list[Source], sink: str, group: tuple[int, ...],
             roots: dict[str, int]) -> Graph:  # fmt: skip
    """The graph with windows for its sources, one sink, and the group at the head of each window.

    Args:
        roots: frame of the clip by the node that finds candidates for it; behind the group, those are what the
            sources give where the nodes run that run once.
    """
    result = {key: {**node, "inputs": dict(node["inputs"])} for key, node in graph.items()}
    for source in sources:
        result[source.key] = {"class_type": f"{WINDOW}:{source.key}", "inputs": {}}
    for key, node in result.items():
        if node["class_type"] == GATHER_SWAP:
            node["inputs"]["group_frames"] = ", ".join(map(str, range(len(group))))
        if node["class_type"] == INVERSION:
            node["class_type"] = f"{INVERT}:{key}"
        if key in roots:
            node["inputs"]["frame"] = len(group) + list(roots).index(key)
        for name, value in node["inputs"].items():
            if is_link(value) and value[0] in roots and value[1] == ROOT_FRAME:
                node["inputs"][name] = roots[value[0]]
    result[COLLECT] = {"class_type": COLLECT, "inputs": {"images": graph[sink]["inputs"]["images"]}}
    needed, left = set(), [COLLECT]
    while left:
        key = left.pop()
        if key not in needed:
            needed.add(key)
            left += [value[0] for value in result[key]["inputs"].values() if is_link(value)]
    return {key: node for key, node in result.items() if key in needed}


def roots_of(graph: Graph, sources: list[Source], total: int) -> dict[str, int]:
    """The frame that each node of root candidates takes, by its id.

    Raises:
        GraphError: it takes it from something else than a file, or the clip has no such frame.
    """
    seeing, found = {source.key for source in sources}, {}
    for key, node in graph.items():
        if node["class_type"] == ROOT:
            images, frame, seed = (node["inputs"].get(name) for name in ("images", "frame", "seed"))
            if is_link(images) and images[0] in seeing:
                if is_link(frame) or is_link(seed):
                    raise GraphError(f"--stream: {label(graph, key)}: frame and seed must be numbers, not links.")
                try:
                    found[key] = chosen_frame(frame, total, seed)
                except ValueError as error:
                    raise GraphError(f"{label(graph, key)}: {error}") from error
    return found


def group_of(graph: Graph, total: int) -> tuple[int, ...]:
    """Frames that every window must hold: those of the graph's gather-swap."""
    nodes = [node["inputs"] for node in graph.values() if node["class_type"] == GATHER_SWAP]
    chosen = set()
    for inputs in nodes:
        by_hand = whole_numbers("group_frames", inputs.get("group_frames", ""))
        chosen.add(GatherSwap(group=inputs["group"], frames=by_hand).group_of(total))
    if len(chosen) > 1:
        raise GraphError("--stream: the graph's gather-swaps have different groups; give them one.")
    return chosen.pop() if chosen else ()


def checked(graph: Graph, nodes: dict[str, type[Any]], sources: list[Source], roots: Collection[str]) -> set[str]:
    """Ids of the nodes that run once. Raises GraphError where a windowed graph is not exact."""
    order = order_of(graph, nodes)
    constant = without_frames(graph, order, sources, roots)
    check_nodes(graph, nodes, seeing(graph, constant, sources))
    return constant


def seeing(graph: Graph, constant: Collection[str], sources: list[Source]) -> set[str]:
    """Ids of the nodes that are handed a window's frames."""
    return graph.keys() - constant - {source.key for source in sources} - {COLLECT}


def left_out(graph: Graph, edited: Graph, nodes: dict[str, type[Any]]) -> None:
    """Say which outputs of the graph are not made."""
    for key, node in graph.items():
        makes = nodes[node["class_type"]].GET_SCHEMA().is_output_node if node["class_type"] in nodes else False
        if makes and key not in edited and node["class_type"] != SAVE_VIDEO:
            print(f"--stream writes the video only; {label(graph, key)} is left out.", file=sys.stderr)
