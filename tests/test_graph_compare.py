"""Every shipped graph that saves a video made of another one plays both beside each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

GRAPHS = sorted((Path(__file__).resolve().parents[1] / "workflows" / "api").glob("*.json"))
SOURCES = {"LoadVideo", "SteadyEditToyClip"}
COMPARE = "SteadyEditCompare"


def behind(graph, *keys):
    """These nodes and all that they are made of."""
    found, left = set(), list(keys)
    while left:
        if (key := left.pop()) not in found:
            found.add(key)
            left += [value[0] for value in graph[key]["inputs"].values() if isinstance(value, list)]
    return found


def missing_compare(graph):
    """Nodes that save a video made of a source, and whose frames no Compare shows beside those of the source."""
    kinds = {key: node["class_type"] for key, node in graph.items()}
    shown = [node["inputs"] for node in graph.values() if node["class_type"] == COMPARE]
    lacking = []
    for key in (key for key, kind in kinds.items() if kind == "SaveVideo"):
        sources = {one for one in behind(graph, key) if kinds[one] in SOURCES}
        saved = graph[key]["inputs"]["video"][0]
        # Frames become a video by CreateVideo; a streamed edit gives the video itself.
        edited = graph[saved]["inputs"]["images"][0] if kinds[saved] == "CreateVideo" else saved
        if sources and not any(
            sources & behind(graph, one["before"][0])
            and edited in behind(graph, one["after"][0]) - behind(graph, one["before"][0])
            for one in shown
        ):
            lacking.append(key)
    return lacking


@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.stem)
def test_a_saved_edit_plays_beside_its_source(path):
    graph = json.loads(path.read_text(encoding="utf-8"))
    assert any(node["class_type"] == "SaveVideo" for node in graph.values())
    assert missing_compare(graph) == []


def test_a_graph_without_or_with_the_wrong_pair_is_found():
    graph = json.loads(next(path for path in GRAPHS if path.stem == "toy_ei2").read_text(encoding="utf-8"))
    (key,) = (key for key, node in graph.items() if node["class_type"] == COMPARE)
    (save,) = (key for key, node in graph.items() if node["class_type"] == "SaveVideo")
    pair = graph[key]["inputs"]
    graph[key]["inputs"] = {**pair, "before": pair["after"]}
    assert missing_compare(graph) == [save]
    graph[key]["inputs"] = {**pair, "after": pair["before"]}
    assert missing_compare(graph) == [save]
    del graph[key]
    assert missing_compare(graph) == [save]
