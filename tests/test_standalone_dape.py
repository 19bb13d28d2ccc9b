"""DAPE's toy graph from end to end without a host, on untrained models: the plumbing, not the pictures."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from steadyedit import toyworld
from steadyedit.standalone.graph import CLIP, GraphError, read_graph
from steadyedit.standalone.run import run_standalone

GRAPH = Path(toyworld.__file__).parents[1] / "workflows" / "api" / "toy_dape.json"
NORMS, ADAPTER = "SteadyEditNormTune", "SteadyEditVisualAdapterTrain"

pytestmark = [pytest.mark.skipif("comfy_api" in sys.modules, reason="a host is loaded in this process"),
              pytest.mark.usefixtures("untrained")]


@pytest.fixture
def graph():
    """The shipped graph, smaller and shorter."""
    graph = read_graph(GRAPH)
    for node in graph.values():
        if node["class_type"] == CLIP:
            node["inputs"].update(frames=2, size=64)
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = 2
    return graph


def of_class(graph, name):
    return next(key for key, node in graph.items() if node["class_type"] == name)


def test_the_shipped_graph_runs(graph, tmp_path):
    run = run_standalone(graph, tmp_path / "out")
    assert run.saved[0].name == "toy_dape_00001_.mp4"
    model, held, losses, lora = run.results[of_class(graph, NORMS)]
    assert [a.method for a in model.attachments] == ["sparse-causal", "norm-tune"] and len(losses["loss"]) == 2
    assert all(key.startswith("diffusion_model.") and key.endswith((".diff", ".diff_b")) for key in lora)
    assert 3 * len(lora) == 2 * len(held.tensors)
    model, held, _ = run.results[of_class(graph, ADAPTER)]
    assert [a.method for a in model.attachments] == ["sparse-causal", "norm-tune", "visual-adapter"]
    assert {name.split(".")[0] for name in held.tensors} == {"visual-adapter"}


def test_bad_settings_are_one_sentence(graph, tmp_path):
    graph[of_class(graph, ADAPTER)]["inputs"]["positions"] = "8"
    with pytest.raises(GraphError, match="positions: this U-Net has the attention stages 1 to 7, but got 8") as caught:
        run_standalone(graph, tmp_path)
    assert "\n" not in str(caught.value)
