"""Every shipped graph that asks a model for the region of an instruction looks for its words frame by frame."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_graph_compare import behind

ROOT = Path(__file__).resolve().parents[1]
ASKS, FINDS = "SteadyEditDescribeRegion", "SteadyEditTextMask"
#: The output of Describe Region that has a line for each frame.
BY_FRAME = 3


def load(path):
    """A graph's nodes, or a blueprint's, in API form."""
    nodes = json.loads(path.read_text(encoding="utf-8"))
    return {key: node for key, node in nodes.items() if key != "_blueprint"}


API_FORMS = sorted(path for folder in ("workflows", "subgraphs") for path in (ROOT / folder / "api").glob("*.json"))
ASKING = [path for path in API_FORMS if {ASKS, FINDS} <= {node["class_type"] for node in load(path).values()}]


def mismatched(graph):
    """Text Masks that look for other words than their Describe Region's by frame, or in other frames."""
    found = []
    for key in (key for key, node in graph.items() if node["class_type"] == FINDS):
        text = graph[key]["inputs"]["text"]
        before = behind(graph, text[0]) if isinstance(text, list) else set()
        asks = {one for one in before if graph[one]["class_type"] == ASKS}
        taken = {tuple(value) for one in before | {key} for value in graph[one]["inputs"].values()
                 if isinstance(value, list) and value[0] in asks}  # fmt: skip
        every = {graph[one]["inputs"].get("every") for one in asks | {key}}
        if not asks or taken != {(one, BY_FRAME) for one in asks} or len(every) > 1:
            found.append(key)
    return found


@pytest.mark.parametrize("path", ASKING, ids=lambda path: path.stem)
def test_words_are_by_frame_and_asked_for_where_they_are_looked_for(path):
    assert mismatched(load(path)) == []


def test_the_first_frames_words_and_other_frames_are_found():
    assert {path.stem for path in ASKING} >= {"via_local", "via_kontext", "via_qwen_edit"}
    (path,) = (path for path in ASKING if path.stem == "via_local")
    for change in ({"every": 12}, {"text": "man"}):
        graph = load(path)
        (key,) = (key for key, node in graph.items() if node["class_type"] == FINDS)
        graph[key]["inputs"].update(change)
        assert mismatched(graph) == [key]
    graph = load(path)
    (key,) = (key for key, node in graph.items() if node["class_type"] == FINDS)
    switch = graph[graph[key]["inputs"]["text"][0]]["inputs"]
    switch["on_false"] = [switch["on_false"][0], 0]
    assert mismatched(graph) == [key]
