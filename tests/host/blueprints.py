"""A saved graph -> the host's form of a blueprint: one node with the graph inside of it."""

from __future__ import annotations

from typing import Any
from uuid import NAMESPACE_URL, uuid5

#: The frontend's numbers of a subgraph's two ends.
ENTRY, EXIT = -10, -20


def _id(*words: str) -> str:
    """The same for the same words, so that a blueprint that is drawn anew is the same one."""
    return str(uuid5(NAMESPACE_URL, "/".join(("steadyedit", *words))))


def blueprint(name: str, graph: dict[str, Any], shown: dict[str, Any]) -> dict[str, Any]:
    """The UI form of a blueprint.

    Args:
        name: as the search of nodes shows it.
        graph: the inner graph as the frontend saves it.
        shown: "description"; "category"; "inputs", each a list of [node, input]; "outputs", each [node, place];
            "widgets", each [node, widget, label], at most eight.
    """
    nodes = {str(node["id"]): node for node in graph["nodes"]}
    links = [dict(zip(("id", "origin_id", "origin_slot", "target_id", "target_slot", "type"), link))
             for link in graph["links"]]
    number = max((link["id"] for link in links), default=0)
    inputs, outputs = [], []
    wanted = shown["inputs"] | {label: [(key, field)] for key, field, label in shown["widgets"]}
    for place, (label, targets) in enumerate(wanted.items()):
        ids = []
        for key, field in targets:
            slot = next(i for i, one in enumerate(nodes[key]["inputs"]) if one["name"] == field)
            number += 1
            kind = nodes[key]["inputs"][slot]["type"]
            nodes[key]["inputs"][slot]["link"] = number
            links.append({"id": number, "origin_id": ENTRY, "origin_slot": place, "target_id": int(key),
                          "target_slot": slot, "type": kind})
            ids.append(number)
        inputs.append({"id": _id(name, "input", label), "name": label, "type": kind, "linkIds": ids,
                       "pos": [-120, 40 + 20 * place]})
    right = max(node["pos"][0] + node["size"][0] for node in nodes.values()) + 120
    for place, (label, (key, slot)) in enumerate(shown["outputs"].items()):
        number += 1
        output = nodes[key]["outputs"][slot]
        output["links"] = [*(output.get("links") or []), number]
        links.append({"id": number, "origin_id": int(key), "origin_slot": slot, "target_id": EXIT,
                      "target_slot": place, "type": output["type"]})
        outputs.append({"id": _id(name, "output", label), "name": label, "type": output["type"], "linkIds": [number],
                        "pos": [right + 20, 40 + 20 * place]})
    values = [nodes[key]["widgets_values_named"][field] for key, field, _ in shown["widgets"]]
    texts = sum(nodes[key]["type"] in ("CLIPTextEncode", "PrimitiveStringMultiline") for key, *_ in shown["widgets"])
    named = {label for *_, label in shown["widgets"]}
    inner = {
        "id": _id(name), "version": 1, "revision": 0, "config": {}, "name": name,
        "state": {"lastGroupId": len(graph.get("groups", [])), "lastNodeId": max(map(int, nodes)), "lastLinkId": number,
                  "lastRerouteId": 0},
        "inputNode": {"id": ENTRY, "bounding": [-240, 20, 140, 40 + 20 * len(inputs)]},
        "outputNode": {"id": EXIT, "bounding": [right, 20, 140, 40 + 20 * len(outputs)]},
        "inputs": inputs, "outputs": outputs, "widgets": [], "nodes": list(nodes.values()),
        "groups": graph.get("groups", []), "links": links, "extra": {"workflowRendererVersion": "LG"},
        "category": shown["category"], "description": shown["description"],
    }  # fmt: skip
    outside = {
        "id": 1, "type": inner["id"], "pos": [0, 0], "flags": {}, "order": 0,
        "size": [400, 80 + 30 * len(shown["widgets"]) + 70 * texts],
        "mode": 0, "title": name,
        "inputs": [{"name": one["name"], "type": one["type"], "link": None}
                   | ({"widget": {"name": one["name"]}} if one["name"] in named else {}) for one in inputs],
        "outputs": [{"name": one["name"], "type": one["type"], "links": []} for one in outputs],
        "properties": {"proxyWidgets": [["-1", label] for *_, label in shown["widgets"]]}, "widgets_values": values,
    }  # fmt: skip
    return {"revision": 0, "last_node_id": 1, "last_link_id": 0, "nodes": [outside], "links": [], "version": 0.4,
            "definitions": {"subgraphs": [inner]}, "extra": {}}
