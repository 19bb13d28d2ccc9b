"""A graph's editor form as a file: where its models are to be had, and its widgets' values from the API form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from folded_graphs import shown_inputs, subgraph_nodes
from forms import FOLDER, editor_form

MODELS = FOLDER.parent / "docs" / "models.json"


def write(path: Path, graph: dict[str, Any]) -> Path:
    """A UI form with the addresses of its models, one field a line, so that a change reads well."""
    path.write_text(json.dumps(add_models(graph), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def add_models(graph: dict[str, Any]) -> dict[str, Any]:
    """Write beside each loader where its files are to be had, for the frontend's list of missing models."""
    known = {model["name"]: model for model in json.loads(MODELS.read_text(encoding="utf-8"))}
    for node in [*graph["nodes"], *(node for _, inside in subgraph_nodes(graph) for node in inside["nodes"])]:
        values = node.get("widgets_values", [])
        values = values.values() if isinstance(values, dict) else values
        found = [known[value] for value in values if isinstance(value, str) and value in known]
        if found:
            fields = ("name", "url", "directory")
            node["properties"]["models"] = [{field: model[field] for field in fields} for model in found]
        else:
            node.get("properties", {}).pop("models", None)
    return graph


def carry_values(name: str) -> Path:
    """Set the widgets of a graph's editor form to the values in ``workflows/api/NAME.json``, its note to ``NAME.md``.

    Raises:
        KeyError: the UI form lacks a node or a widget, so it must be drawn again.
    """
    path = editor_form(name)
    graph = json.loads(path.read_text(encoding="utf-8"))
    held = subgraph_nodes(graph)
    nodes = {str(node["id"]): node for part in [graph, *(inside for _, inside in held)] for node in part["nodes"]}
    api = json.loads((FOLDER / "api" / f"{name}.json").read_text(encoding="utf-8"))
    for key, node in api.items():
        widgets = nodes[key].get("widgets_values_named", {})
        for field, value in node["inputs"].items():
            if isinstance(value, list):
                continue
            if field not in widgets:
                raise KeyError(f"{name}: node {key} has no widget '{field}' in the UI form; draw it again.")
            if widgets[field] != value:  # The frontend writes 1 where the API form has 1.0.
                widgets[field] = value
        if widgets:
            # The list is what older frontends read; the names are in its order.
            nodes[key]["widgets_values"] = list(widgets.values())
    for host, inside in held:
        named, shown = host.get("widgets_values_named", {}), shown_inputs(inside)
        for label in named:
            key, field = shown[label][0]
            if key not in api:
                continue  # The host's SAM 3 nodes, which the API form has not.
            named[label] = nodes[key]["widgets_values_named"][field]
        host["widgets_values"] = list(named.values())
    note = FOLDER / "api" / f"{name}.md"
    for node in graph["nodes"]:
        if node["type"] == "MarkdownNote":
            text = note.read_text(encoding="utf-8")
            node["widgets_values"], node["widgets_values_named"] = [text], {"text": text}
    return write(path, graph)
