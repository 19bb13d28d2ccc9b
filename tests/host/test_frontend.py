"""The shipped graphs in the host's own editor, in headless Chromium."""

from __future__ import annotations

import json

import frontend
import pytest
from forms import editor_forms
from saved import API, editor_graphs, ours
from steadyedit import nodes

FORMS = editor_forms()
GRAPHS = list(FORMS)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_opens_with_no_missing_node_and_queues_as_its_api_form(editor, name):
    frontend.load_ui(editor, json.loads(FORMS[name].read_text(encoding="utf-8")))
    assert frontend.missing(editor) == []
    queued, api = frontend.flat(frontend.exported(editor)), json.loads(
        (frontend.WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))
    assert {key: node["class_type"] for key, node in queued.items()} == {
        key: node["class_type"] for key, node in api.items()
    }
    for key, node in api.items():
        # Newer hosts give core nodes more widgets than the graph names.
        assert {field: queued[key]["inputs"].get(field) for field in node["inputs"]} == node["inputs"], node["_meta"]


@pytest.mark.parametrize("name", ["toy_lora_edit", "ei2", "via_local"])  # 4 s each; every graph's widgets: test_saved
def test_a_graph_of_0_1_0_opens_with_its_values_and_new_widgets_at_their_defaults(editor, name):
    frontend.load_ui(editor, editor_graphs()[name])
    assert frontend.missing(editor) == []
    queued = frontend.exported(editor)
    schemas = {node.GET_SCHEMA().node_id: node.GET_SCHEMA() for node in nodes.node_list()}
    for key, node in API[name].items():
        inputs = queued[key]["inputs"]
        assert {field: inputs.get(field) for field in node["inputs"]} == node["inputs"], node["_meta"]
        if ours(node["class_type"]):
            defaults = {one.id: one.default for one in schemas[node["class_type"]].inputs if hasattr(one, "default")}
            new = inputs.keys() - node["inputs"].keys()
            assert {field: inputs[field] for field in new} == {field: defaults[field] for field in new}


def test_the_template_browser_lists_every_graph_with_a_thumbnail(started, editor):
    """The list that the browser shows, and the files that it then asks for."""
    (listed,) = started.ask("/workflow_templates").values()
    assert sorted(listed) == sorted(path.stem for path in FORMS.values())
    pack = next(iter(started.ask("/workflow_templates")))
    for name in listed:
        kind = editor.evaluate(
            "async (url) => { const r = await fetch(url); return [r.status, r.headers.get('content-type')] }",
            f"/api/workflow_templates/{pack}/{name}.jpg",
        )
        assert kind == [200, "image/jpeg"]
