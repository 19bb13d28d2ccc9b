"""Graphs and weights that version 0.1.0 saved open and run."""

from __future__ import annotations

import copy
import sys
from types import SimpleNamespace

import pytest
import torch
from double import DoubleBackend, double_model
from doubles import clip, condition, predict
from safetensors.torch import load_file
from saved import API, FOLDER, FRONTEND_ONLY, editor_graphs, ours
from steadyedit.backends.diffusers import Denoiser, DiffusersBackend, load_toy_models
from steadyedit.methods.tuning import apply_tuned, load_tuned
from steadyedit.standalone.executor import check
from steadyedit.standalone.graph import CLIP, GraphError
from steadyedit.standalone.run import known_nodes, run_standalone
from steadyedit.toyworld.models import weights_path
from steadyedit.video.read import read_clip
from tolerances import RUN

pytestmark = pytest.mark.skipif("comfy_api" in sys.modules, reason="a host is loaded in this process")
trained = pytest.mark.skipif(not weights_path("unet").is_file(), reason="the toy U-Net is not trained yet")
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}


class CoreNode:
    """A node of the host that standalone does not know: what it gives is not checked here."""

    @staticmethod
    def GET_SCHEMA():
        return SimpleNamespace(outputs=[SimpleNamespace(io_type="*")] * 8)


def check_ours(graph):
    """Check this pack's nodes of a graph, wherever their inputs come from."""
    known = known_nodes()
    kinds = {node["class_type"] for node in graph.values()}
    nodes = {kind: CoreNode for kind in kinds if not ours(kind)} | {kind: known[kind] for kind in kinds if ours(kind)}
    check(graph, [key for key, node in graph.items() if ours(node["class_type"])], nodes)


def widgets_today(node_id):
    """Names of a node's widgets in the editor's order: what is required first."""
    inputs = known_nodes()[node_id].GET_SCHEMA().inputs
    return [wanted.id for required in (True, False) for wanted in inputs
            if wanted.required == required and wanted.io_type in WIDGETS
            and not wanted.settings.get("forceInput")]  # fmt: skip


@pytest.mark.parametrize("name", API)
def test_a_graph_fits_the_nodes(name):
    check_ours(API[name])


def test_the_check_sees_an_input_that_went_and_one_that_came():
    graph = copy.deepcopy(API["toy_ei2"])
    ratio = next(node["inputs"] for node in graph.values() if node["class_type"] == "SteadyEditFFAM")
    del ratio["ratio"]
    with pytest.raises(GraphError, match="'ratio' is missing"):
        check_ours(graph)
    ratio |= {"ratio": 2, "gone": 1}
    with pytest.raises(GraphError, match="no input 'gone'"):
        check_ours(graph)


def test_no_widget_s_value_moves_to_another_widget():
    """The editor gives a saved list of values to a node's widgets in order: new widgets come after all old ones."""
    seen = set()
    for name, graph in editor_graphs().items():
        for node in graph["nodes"]:
            if ours(node["type"]) and node["type"] not in seen and node.get("widgets_values"):
                seen.add(node["type"])
                assert list(node["widgets_values_named"].values()) == node["widgets_values"]
                old = [widget for widget in node["widgets_values_named"] if widget not in FRONTEND_ONLY]
                assert widgets_today(node["type"])[: len(old)] == old, f"{name}: {node['type']}"
    assert len(seen) > 15


@trained
@pytest.mark.parametrize("name", ["toy_ei2", "toy_rave"])
def test_a_graph_runs_to_its_end(name, tmp_path, monkeypatch):
    monkeypatch.setenv("STEADYEDIT_WEIGHTS", str(tmp_path / "weights"))
    graph = copy.deepcopy(API[name])
    for node in graph.values():
        if node["class_type"] == CLIP:
            node["inputs"].update(frames=4, size=64)
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = 2
    (saved,) = run_standalone(graph, tmp_path / "out").saved
    frames = read_clip(saved).frames
    assert frames.shape == (4, 64, 64, 3) and frames.std() > 0.01


def test_weights_of_stam_and_ffam_predict_what_they_did():
    model, weights = double_model(), load_tuned(FOLDER / "double_ei2.safetensors")
    tuned = predict(apply_tuned(DoubleBackend(), model, weights), clip(), condition())
    assert_as_then(tuned, predict(model, clip(), condition()), "double_ei2")


@trained
def test_weights_of_norm_tuning_predict_what_they_did():
    backend, (unet, _, _) = DiffusersBackend(), load_toy_models()
    tuned = apply_tuned(backend, unet, load_tuned(FOLDER / "toy_norms.safetensors"))
    assert_as_then(denoised(tuned), denoised(unet), "toy_norms")


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def denoised(model):
    width = model.unet.config.cross_attention_dim
    positive, negative = ([[normal(seed, 1, 77, width), {}]] for seed in (1, 2))
    with torch.no_grad():
        return Denoiser(model, positive, negative, 7.5, frames=3)(normal(5, 3, 4, 8, 8), torch.full((3,), 3.0))


def assert_as_then(tuned, plain, name):
    expected = load_file(FOLDER / "expected.safetensors")[name]
    assert tuned.isfinite().all() and (tuned - plain).abs().max() > 0.1
    assert (tuned - expected).abs().max() <= RUN * expected.abs().max()
