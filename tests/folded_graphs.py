"""A saved graph with subgraphs in it -> the same graph with their nodes beside the others."""

from __future__ import annotations

import copy
from typing import Any

#: The frontend's numbers of a subgraph's two ends.
ENTRY, EXIT = -10, -20
#: Mode of a node that hands its inputs on as they are.
BYPASSED = 4


def subgraph_nodes(graph: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each node that holds a subgraph, with its definition."""
    known = {one["id"]: one for one in graph.get("definitions", {}).get("subgraphs", [])}
    return [(node, known[node["type"]]) for node in graph["nodes"] if node["type"] in known]


def shown_inputs(definition: dict[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """What each input of a subgraph feeds: the nodes inside and the names of their inputs."""
    nodes = {node["id"]: node for node in definition["nodes"]}
    return {one["name"]: [(str(link["target_id"]), nodes[link["target_id"]]["inputs"][link["target_slot"]]["name"])
                          for link in definition["links"]
                          if link["origin_id"] == ENTRY and link["origin_slot"] == place]
            for place, one in enumerate(definition["inputs"])}  # fmt: skip


def unfolded(graph: dict[str, Any]) -> dict[str, Any]:
    """A copy whose nodes of subgraphs stand at the top; what a subgraph's own node shows is their widgets' value.

    Of a bypassed one nothing is left, but what it passes through. The numbers of nodes inside are unlike all others,
    as ``frontend.py`` draws them.
    """
    graph = copy.deepcopy(graph)
    for host, definition in subgraph_nodes(graph):
        nodes = {str(node["id"]): node for node in definition["nodes"]}
        for label, value in host.get("widgets_values_named", {}).items():
            for key, field in shown_inputs(definition)[label]:
                nodes[key]["widgets_values_named"][field] = value
        inward = {host["inputs"][link[4]]["name"]: tuple(link[1:3]) for link in graph["links"] if link[3] == host["id"]}
        outward = [link for link in graph["links"] if link[1] == host["id"]]
        graph["links"] = [link for link in graph["links"] if host["id"] not in (link[1], link[3])]
        if host.get("mode") == BYPASSED:
            for link in outward:
                same = next(one["name"] for one in host["inputs"] if one["type"] == host["outputs"][link[2]]["type"])
                graph["links"].append([link[0], *inward[same], *link[3:]])
            graph["nodes"].remove(host)
            continue
        names = [one["name"] for one in definition["inputs"]]
        for link in definition["links"]:
            origin, target = (link["origin_id"], link["origin_slot"]), (link["target_id"], link["target_slot"])
            ends = [link_[3:5] for link_ in outward if link_[2] == target[1]] if target[0] == EXIT else [target]
            start = inward.get(names[origin[1]]) if origin[0] == ENTRY else origin
            if start is not None:
                graph["links"] += [[link["id"], *start, *end, link["type"]] for end in ends]
        graph["nodes"].remove(host)
        graph["nodes"] += definition["nodes"]
    return graph
