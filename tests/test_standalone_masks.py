"""The mask nodes with no ComfyUI: a checkpoint from the models folder, clicks, tracking."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from steadyedit import nodes
from steadyedit.standalone import host_api
from steadyedit.standalone.graph import read_graph
from steadyedit.toyworld import render, sample_scene
from steadyedit.toyworld.models import weights_path
from steadyedit.vision.segmentation import load as loading
from steadyedit.vision.segmentation import names
from tiny_vision import TINY_SAM, clip, shaken


def test_a_click_is_carried_through_the_clip(tmp_path, monkeypatch):
    (tmp_path / "sams").mkdir()
    sam = shaken(lambda: loading.build_transformers(TINY_SAM))
    torch.save(names.to_official(sam.state_dict(), names.official_names(TINY_SAM)), tmp_path / "sams" / "tiny.pth")
    monkeypatch.setenv("STEADYEDIT_MODELS", str(tmp_path))
    with host_api.installed():
        found = {node.GET_SCHEMA().node_id: node for node in nodes.node_list()}
        options = next(i for i in found["SteadyEditSAMModel"].GET_SCHEMA().inputs if i.id == "model").options
        assert "tiny.pth" in options
        (loaded,) = found["SteadyEditSAMModel"].execute("tiny.pth").result
        frames = clip(3)
        mask, *_, numbers, _, _ = found["SteadyEditPointMask"].execute(
            frames, loaded, 1, "20,30", "", "10,12,30,40", "error").result
        assert mask.shape == (1, 75, 53) and mask.any() and numbers == "1"
        tracked, sure, _ = found["SteadyEditTrackMask"].execute(frames, mask, numbers, "auto", 0.0, loaded).result
        assert tracked.shape == (3, 75, 53) and torch.equal(tracked[1], mask[0]) and len(sure.split(",")) == 3
        (wide,) = found["SteadyEditMaskRefine"].execute(tracked, 0, 0, 0, 2, 0.0).result
        assert wide.sum() > tracked.sum()


@pytest.mark.skipif(not (weights_path("sam").is_file() and weights_path("grounder").is_file()),
                    reason="the toy SAM or grounding is not trained yet")
def test_words_alone_become_the_masks_of_the_clip():
    """The mask's part of the graph toy_via_local_text, on each fourth of its frames."""
    graph = read_graph(Path(__file__).parents[1] / "workflows" / "api" / "toy_via_local_text.json")
    inputs = {node["class_type"]: node["inputs"] for node in graph.values()}
    seen = render(sample_scene(inputs["SteadyEditToyClip"]["seed"], "demo", frames=24, size=128))
    frames, true = seen.frames[::4], seen.masks[0][::4]
    with host_api.installed():
        found = {node.GET_SCHEMA().node_id: node for node in nodes.node_list()}

        def run(name, **linked):
            return found[name].execute(**{**inputs[name], **linked}).result

        (grounding,), (sam,) = run("SteadyEditGroundingModel"), run("SteadyEditSAMModel")
        mask, boxes, _, numbers = run("SteadyEditTextMask", images=frames, grounding=grounding, sam=sam, every=3)
        assert numbers == "0, 3" and [row[0]["label"] for row in boxes] == ["the green fish"] * 2
        tracked, _, lowest = run("SteadyEditTrackMask", images=frames, mask=mask, frames=numbers, sam=sam)
        (wide,) = run("SteadyEditMaskRefine", mask=tracked)
    overlap = (tracked * true).sum((1, 2)) / torch.maximum(tracked, true).sum((1, 2))
    assert overlap.min() > 0.8 and lowest > 0.6
    assert (wide * true).sum() / true.sum() > 0.98, "no rim of the old colour stays outside"
