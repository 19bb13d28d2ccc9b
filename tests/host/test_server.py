"""The pack in a running ComfyUI: it registers, it costs its start nothing, and the toy graph runs through the API."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from served import run, written
from steadyedit.toyworld.models import weights_path

ROOT = Path(__file__).resolve().parents[2]
GRAPH = ROOT / "workflows" / "api" / "toy_ei2.json"
trained = pytest.mark.skipif(not weights_path("unet").exists(), reason="the toy U-Net is not trained yet")


@pytest.fixture
def server(started):
    return started


def test_all_nodes_are_registered(server):
    assert "IMPORT FAILED" not in server.log.read_text(errors="replace")
    known = server.ask("/object_info")
    from steadyedit.nodes import node_list

    for node in node_list():
        schema = node.GET_SCHEMA()
        assert schema.node_id in known, schema.node_id
        assert known[schema.node_id]["description"]
    for node in json.loads(GRAPH.read_text()).values():
        info = known[node["class_type"]]["input"]
        names = set(info.get("required", {})) | set(info.get("optional", {}))
        assert set(info.get("required", {})) <= set(node["inputs"]), node["class_type"]
        assert set(node["inputs"]) <= names, node["class_type"]


def test_help_pages_are_served(server):
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/extensions/steadyedit/docs/SteadyEditFFAM.md") as page:
        assert b"# FFAM" in page.read()


def short_graph(name):
    """A toy graph with few frames and steps, whose frames are also saved as pictures."""
    graph = json.loads((GRAPH.parent / f"{name}.json").read_text())
    changes = {"SteadyEditOneShotTune": {"steps": 3, "reuse": False}, "SteadyEditDDIMInversion": {"steps": 5},
               "SteadyEditToyClip": {"frames": 4}, "SteadyEditRootCandidates": {"count": 2, "steps": 4},
               "SteadyEditTestTimeAdapt": {"steps": 2, "variants": 4, "reuse": False},
               "SteadyEditNormTune": {"steps": 1, "reuse": False},
               "SteadyEditVisualAdapterTrain": {"steps": 1, "reuse": False},
               "SteadyEditMaskLoRATrain": {"steps": 2, "reuse": False}, "KSampler": {"steps": 4},
               "SteadyEditGatherSwap": {"group": 3}, "SteadyEditFlowEdit": {"n_max": 4},
               "SteadyEditNullTextInversion": {"steps": 2, "inner_steps": 1, "reuse": False},
               "BasicScheduler": {"steps": 5}, "SteadyEditApproximateWindows": {"length": 3, "overlap": 1},
               "SteadyEditMaskSample": {"clip_length": 0}, "SteadyEditMaskWindows": {"length": 5}}  # fmt: skip
    if any(node["class_type"] == "SteadyEditToyWan" for node in graph.values()):
        changes["SteadyEditToyClip"] = {"frames": 9 if name.endswith("_windows") else 5}
    for node in graph.values():
        node["inputs"].update(changes.get(node["class_type"], {}))
    (made,) = (node["inputs"]["images"] for node in graph.values() if node["class_type"] == "CreateVideo")
    inputs = {"images": made, "filename_prefix": f"short/{name}/frame"}
    graph["pictures"] = {"class_type": "SaveImage", "inputs": inputs}
    return graph


def pictures(folder):
    import numpy as np
    import torch
    from PIL import Image

    files = sorted(folder.rglob("frame_*.png"))
    return torch.stack([torch.from_numpy(np.array(Image.open(file).convert("RGB"))).float() for file in files])


@pytest.fixture(scope="module")
def standalone(request, tmp_path_factory):
    """The frames of each graph that this session asks for, run without a host: one process for all of them."""
    folder = tmp_path_factory.mktemp("standalone")
    names = [item.callspec.params["name"] for item in request.session.items
             if item.path == request.path and hasattr(item, "callspec") and "name" in item.callspec.params]
    for name in names:
        (folder / f"{name}.json").write_text(json.dumps(short_graph(name)))
    # The pack's folder under its import name, as an installed copy has it.
    (folder / "steadyedit").symlink_to(ROOT, target_is_directory=True)
    subprocess.run([sys.executable, "-c", EACH, *names], cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)},
                   check=True)  # fmt: skip
    return {name: pictures(folder / name) for name in names}


#: Runs graphs one after the other, as ``python -m steadyedit run`` does.
EACH = """
import sys
from steadyedit.standalone.cli import main
for name in sys.argv[1:]:
    assert main(["run", name + ".json", "--host", "standalone", "--output", name]) == 0, name
"""


@trained
@pytest.mark.parametrize(("name", "most"), [
    ("toy_ei2", 16), ("toy_dape", 16), ("toy_rave", 2), ("toy_tokenflow", 2), ("toy_via_local_text", 2),
    ("toy_lora_edit", 2), ("toy_flow_edit", 2), ("toy_prompt_to_prompt", 2),
    # Nodes of those above, in other places.
    *(pytest.param(*one, marks=pytest.mark.once) for one in (
        ("toy_via_global", 2), ("toy_via_local", 2), ("toy_via_flow", 2), ("toy_lora_edit_text", 2),
        ("toy_ei2_windows", 16), ("toy_lora_edit_windows", 2)))])  # fmt: skip
def test_toy_graphs_run_and_standalone_gives_the_same_frames(server, standalone, name, most):
    """To so many of 255 levels; the host cuts pictures off to 8 bits, standalone rounds them."""
    history = run(server, short_graph(name))
    assert history["status"]["status_str"] == "success", server.tail()
    assert written(server, history, "mp4").stat().st_size > 1000
    here, there = pictures(server.output / "short" / name), standalone[name]
    frames = 9 if name == "toy_lora_edit_windows" else 5 if name.startswith(("toy_lora_edit", "toy_flow_edit")) else 4
    assert here.shape == there.shape == (frames, 128, 128, 3)
    assert here.std() > 1, "a flat picture would prove nothing"
    assert (here - there).abs().mean() < 1 and (here - there).abs().max() <= most


@trained
def test_a_bad_input_names_itself(server):
    graph = json.loads(GRAPH.read_text())
    for node in graph.values():
        if node["class_type"] == "SteadyEditFFAM":
            node["inputs"]["ratio"] = 16
        if node["class_type"] == "SteadyEditToyClip":
            node["inputs"].update(size=64, frames=2)
    history = run(server, graph)
    messages = [data for name, data in history["status"]["messages"] if name == "execution_error"]
    assert messages and messages[0]["exception_message"].startswith("ratio: 16 is larger than the largest feature map")


@pytest.mark.parametrize(("change", "told"), [
    ({"SteadyEditToyClip": {"frames": 6}}, "video: 6 frames, but the video VAE needs 4N + 1"),
    ({"SteadyEditBoxMask": {"smallest": 1000000}}, "smallest: every box has fewer than"),
])  # fmt: skip
def test_a_wrong_clip_is_told_before_texts_and_models_are_asked_for(server, change, told):
    graph = json.loads((ROOT / "workflows" / "api" / "toy_lora_edit.json").read_text())
    for node in graph.values():
        node["inputs"].update(change.get(node["class_type"], {}))
        if node["class_type"] == "SteadyEditToyClip":
            node["inputs"]["seed"] = 77  # whose captions no earlier run has left in the cache
    messages = run(server, graph)["status"]["messages"]
    (error,) = [data for name, data in messages if name == "execution_error"]
    assert error["exception_message"].startswith(told)
    assert not {key for key in error["executed"] if graph[key]["class_type"] == "CLIPTextEncode"}
