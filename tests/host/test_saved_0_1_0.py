"""Graphs and weights that version 0.1.0 saved, as the host takes them."""

from __future__ import annotations

import asyncio
import copy
import shutil

import pytest
from saved import API, FOLDER, ours
from steadyedit import nodes as pack
from steadyedit.toyworld.models import weights_path

NODES = {node.GET_SCHEMA().node_id: node for node in pack.node_list()}
#: What core nodes say of a model or a video that is not there.
NO_SUCH_FILE = ("value_not_in_list", "custom_validation_failed")


@pytest.fixture(scope="module")
def validate():
    """The host's own check of a prompt, with this pack's nodes; what it has against this pack's nodes."""
    import execution

    import nodes

    asyncio.run(nodes.init_builtin_extra_nodes())
    before = dict(nodes.NODE_CLASS_MAPPINGS)
    nodes.NODE_CLASS_MAPPINGS.update(NODES)

    def errors(graph):
        # The host changes values of widgets in place.
        valid, error, outputs, faults = asyncio.run(execution.validate_prompt("1", copy.deepcopy(graph), None))
        # A real graph names models and videos; core nodes tell that they are not here.
        return [error] * (error is not None and error["type"] != "prompt_outputs_failed_validation") + [
            (fault["class_type"], one["type"], one["details"]) for fault in faults.values()
            for one in fault["errors"] if ours(fault["class_type"]) or one["type"] not in NO_SUCH_FILE
        ]  # fmt: skip

    yield errors
    nodes.NODE_CLASS_MAPPINGS.clear()
    nodes.NODE_CLASS_MAPPINGS.update(before)


@pytest.mark.parametrize("name", API)
def test_the_host_takes_a_graph(name, validate):
    import nodes

    kinds = {node["class_type"] for node in API[name].values()}
    if absent := {kind for kind in kinds if not ours(kind)} - nodes.NODE_CLASS_MAPPINGS.keys():
        pytest.skip(f"this host does not load {', '.join(sorted(absent))} in a test's process")
    assert validate(API[name]) == []


def test_the_host_s_check_sees_a_missing_input(validate):
    """Also below a loader whose file is not there."""
    graph = copy.deepcopy(API["ei2"])
    del next(node["inputs"] for node in graph.values() if node["class_type"] == "SteadyEditFFAM")["ratio"]
    assert ("SteadyEditFFAM", "required_input_missing", "ratio") in validate(graph)


@pytest.mark.skipif(not weights_path("unet").is_file(), reason="the toy U-Net is not trained yet")
def test_weights_load_by_the_node(weights_folder):
    import torch
    from steadyedit import backends
    from toys import clip, sample

    weights_folder.mkdir(parents=True)
    shutil.copy(FOLDER / "toy_norms.safetensors", weights_folder)
    model = NODES["SteadyEditToyModel"].execute()[0]
    tuned, weights = NODES["SteadyEditLoadTuned"].execute(model, "toy_norms.safetensors").args
    assert [a.method for a in backends.of(tuned).attachments(tuned)] == ["norm-tune"] and weights.tensors
    with torch.inference_mode():
        plain, edited = sample(model, samples=clip()), sample(tuned, samples=clip())
    assert edited.isfinite().all() and (edited - plain).abs().max() > 1e-2
