"""The host's SAM 3 nodes in a graph: one node behind Track Mask, bypassed until a user who has that model turns it on.

The host checks every file that a graph names, also behind a switch that is off. Only a bypassed node may name one that
is not there: the mask of Track Mask then passes through it, and the API form has no trace of it. Hosts before 0.33 lack
what is inside and say so when the graph opens; it runs all the same.
"""

from __future__ import annotations

from typing import Any
from uuid import NAMESPACE_URL, uuid5

from folded_graphs import BYPASSED, ENTRY, EXIT

TITLE = "Find and follow with SAM 3 instead? (Ctrl+B)"
#: Text Mask takes words by frame, "0: man" and more such lines; SAM 3 follows what the first of them names.
FIRST_LINE = (r"\A\s*\d+\s*:\s*(.*)[\s\S]*", r"\1")
TRACK, WORDS, CLICKS, SWITCH = "SteadyEditTrackMask", "SteadyEditTextMask", "SteadyEditPointMask", "ComfySwitchNode"
#: As the host's own blueprint names it.
FILE = "sam3.1_multiplex_fp16.safetensors"
#: Inputs of the node: name, type, and the widget's value, where it has one. The first passes through where it is off.
INPUTS = [("mask", "MASK", None), ("images", "IMAGE", None), ("clicked mask", "MASK", None),
          ("clicks instead of words?", "BOOLEAN", False), ("words", "STRING", ""), ("certainty", "FLOAT", 0.5),
          ("how many objects", "INT", 1)]  # fmt: skip
#: Nodes inside: type, title, place, inputs (name, type, where from: an input's name, a node and its output, or nothing;
#: and the value of its widget), outputs.
INSIDE: list[tuple[str, str, tuple[int, int], list[tuple[str, str, Any, Any]], list[tuple[str, str]]]] = [
    ("CheckpointLoaderSimple", "SAM 3.1", (0, 0), [("ckpt_name", "COMBO", None, FILE)],
     [("MODEL", "MODEL"), ("CLIP", "CLIP"), ("VAE", "VAE")]),
    ("RegexReplace", "The first frame's words", (0, 320), [
        ("string", "STRING", "words", ""), ("regex_pattern", "STRING", None, FIRST_LINE[0]),
        ("replace", "STRING", None, FIRST_LINE[1]), ("case_insensitive", "BOOLEAN", None, True),
        ("multiline", "BOOLEAN", None, False), ("dotall", "BOOLEAN", None, False), ("count", "INT", None, 0)],
     [("STRING", "STRING")]),
    ("CLIPTextEncode", "The object, for SAM 3", (360, 0), [("clip", "CLIP", (0, 1), None),
     ("text", "STRING", (1, 0), "")], [("CONDITIONING", "CONDITIONING")]),
    ("SAM3_VideoTrack", "Found by words and followed", (760, 0), [
        ("images", "IMAGE", "images", None), ("model", "MODEL", (0, 0), None), ("initial_mask", "MASK", None, None),
        ("conditioning", "CONDITIONING", (2, 0), None), ("detection_threshold", "FLOAT", "certainty", 0.5),
        ("max_objects", "INT", "how many objects", 1), ("detect_interval", "INT", None, 1)],
     [("track_data", "SAM3_TRACK_DATA")]),
    ("SAM3_VideoTrack", "Clicked in the first frame and followed", (760, 320), [
        ("images", "IMAGE", "images", None), ("model", "MODEL", (0, 0), None),
        ("initial_mask", "MASK", "clicked mask", None), ("conditioning", "CONDITIONING", None, None),
        ("detection_threshold", "FLOAT", None, 0.5), ("max_objects", "INT", None, 4),
        ("detect_interval", "INT", None, 1)], [("track_data", "SAM3_TRACK_DATA")]),
    (SWITCH, "By words or by clicks", (1160, 0), [
        ("on_false", "SAM3_TRACK_DATA", (3, 0), None), ("on_true", "SAM3_TRACK_DATA", (4, 0), None),
        ("switch", "BOOLEAN", "clicks instead of words?", False)], [("output", "SAM3_TRACK_DATA")]),
    ("SAM3_TrackToMask", "Its mask in every frame", (1560, 0), [
        ("track_data", "SAM3_TRACK_DATA", (5, 0), None), ("object_indices", "STRING", None, "")], [("masks", "MASK")]),
]  # fmt: skip


def _id(*words: str) -> str:
    return str(uuid5(NAMESPACE_URL, "/".join(("steadyedit", "sam3", *words))))


class _Numbers:
    """New numbers of nodes and links, above all that the graph has."""

    def __init__(self, graph: dict[str, Any]):
        parts = [graph, *graph.get("definitions", {}).get("subgraphs", [])]
        self.node = max(int(node["id"]) for part in parts for node in part["nodes"])
        self.link = max((int(one["id"] if isinstance(one, dict) else one[0]) for part in parts
                         for one in part["links"]), default=0)  # fmt: skip

    def new_node(self) -> int:
        self.node += 1
        return self.node

    def new_link(self) -> int:
        self.link += 1
        return self.link


def definition(numbers: _Numbers) -> dict[str, Any]:
    """What the node holds, in the editor's form."""
    ids = [numbers.new_node() for _ in INSIDE]
    links: list[dict[str, Any]] = []
    nodes: list[dict[str, Any]] = []
    fed: dict[str, list[int]] = {name: [] for name, *_ in INPUTS}

    def link(origin: int, slot: int, target: int, place: int, kind: str) -> int:
        number = numbers.new_link()
        links.append({"id": number, "origin_id": origin, "origin_slot": slot, "target_id": target,
                      "target_slot": place, "type": kind})  # fmt: skip
        return number

    names = [name for name, *_ in INPUTS]
    for key, (order, (kind, title, place, inputs, outputs)) in zip(ids, enumerate(INSIDE)):
        slots, values = [], {}
        for at, (name, sort, start, value) in enumerate(inputs):
            number = None
            if isinstance(start, str):
                number = link(ENTRY, names.index(start), key, at, sort)
                fed[start].append(number)
            elif start:
                number = link(ids[start[0]], start[1], key, at, sort)
                (origin,) = (one for one in nodes if one["id"] == ids[start[0]])
                origin["outputs"][start[1]]["links"].append(number)
            slot = {"localized_name": name, "name": name, "type": sort, "link": number}
            if value is not None:
                slot["widget"], values[name] = {"name": name}, value
            slots.append(slot)
        nodes.append({
            "id": key, "type": kind, "pos": list(place), "size": [340, 60 + 26 * len(inputs)], "flags": {},
            "order": order, "mode": 0, "inputs": slots, "title": title,
            "outputs": [{"localized_name": name, "name": name, "type": sort, "links": []} for name, sort in outputs],
            "properties": {"Node name for S&R": kind}, "widgets_values": list(values.values()),
            "widgets_values_named": values,
        })  # fmt: skip
    out = link(ids[-1], 0, EXIT, 0, "MASK")
    nodes[-1]["outputs"][0]["links"].append(out)
    return {
        "id": _id("definition"), "version": 1, "revision": 0, "config": {}, "name": TITLE,
        "state": {"lastGroupId": 0, "lastNodeId": numbers.node, "lastLinkId": numbers.link, "lastRerouteId": 0},
        "inputNode": {"id": ENTRY, "bounding": [-260, 20, 160, 40 + 20 * len(INPUTS)]},
        "outputNode": {"id": EXIT, "bounding": [2000, 20, 120, 60]},
        "inputs": [{"id": _id("input", name), "name": name, "type": sort, "linkIds": fed[name],
                    "pos": [-120, 40 + 20 * i]} for i, (name, sort, _) in enumerate(INPUTS)],
        "outputs": [{"id": _id("output"), "name": "mask", "type": "MASK", "linkIds": [out], "pos": [2020, 40]}],
        "widgets": [], "nodes": nodes, "groups": [], "links": links, "extra": {},
    }  # fmt: skip


def with_sam3(graph: dict[str, Any]) -> dict[str, Any]:
    """The graph with that node behind its Track Mask, words and clicks as the graph has them; ``graph`` is changed.

    A graph that has it, or has no Track Mask whose clicks and words a switch chooses, comes back as it is.
    """
    by_type: dict[str, list[dict[str, Any]]] = {}
    for node in graph["nodes"]:
        by_type.setdefault(node["type"], []).append(node)
    if not (by_type.get(TRACK) and by_type.get(CLICKS) and by_type.get(WORDS)) or _id("definition") in by_type:
        return graph
    (track,), (clicked,), (words,) = by_type[TRACK], by_type[CLICKS], by_type[WORDS]
    numbers = _Numbers(graph)
    ends = {one[0]: one for one in graph["links"]}
    nodes = {node["id"]: node for node in graph["nodes"]}

    def source(node: dict[str, Any], name: str) -> tuple[int, int] | None:
        """The output that feeds an input."""
        (slot,) = (one for one in node["inputs"] if one["name"] == name)
        return None if slot["link"] is None else tuple(ends[slot["link"]][1:3])

    chosen = nodes[source(track, "mask")[0]]
    starts = {"mask": (track["id"], 0), "images": source(track, "images"), "clicked mask": (clicked["id"], 0),
              "clicks instead of words?": source(chosen, "switch"), "words": source(words, "text")}  # fmt: skip
    key, inside = numbers.new_node(), definition(numbers)
    values = {name: value for name, _, value in INPUTS if value is not None}
    values["words"] = words["widgets_values_named"]["text"]
    inputs = []
    for at, (name, sort, value) in enumerate(INPUTS):
        slot = {"name": name, "type": sort, "link": None}
        if value is not None:
            slot["widget"] = {"name": name}
        if (start := starts.get(name)) is not None:
            slot["link"] = numbers.new_link()
            graph["links"].append([slot["link"], *start, key, at, sort])
            output = nodes[start[0]]["outputs"][start[1]]
            output["links"] = [*(output["links"] or []), slot["link"]]
        inputs.append(slot)
    # What took Track Mask's result takes this node's.
    moved = [one for one in graph["links"] if one[1:3] == [track["id"], 0] and one[3] != key]
    for one in moved:
        one[1] = key
        track["outputs"][0]["links"].remove(one[0])
    x, y = track["pos"]
    graph["nodes"].append({
        "id": key, "type": inside["id"], "pos": [x, y + 40], "size": [340, 280], "flags": {}, "order": len(nodes),
        "mode": BYPASSED, "inputs": inputs, "title": TITLE, "properties": {},
        "outputs": [{"name": "mask", "type": "MASK", "links": [one[0] for one in moved]}],
        "widgets_values": list(values.values()), "widgets_values_named": values,
    })  # fmt: skip
    graph.setdefault("definitions", {}).setdefault("subgraphs", []).append(inside)
    graph["last_node_id"], graph["last_link_id"] = numbers.node, numbers.link
    return graph
