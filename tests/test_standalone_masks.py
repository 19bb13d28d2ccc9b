"""The mask nodes with no ComfyUI: a checkpoint from the models folder, clicks, tracking."""

from __future__ import annotations

import torch
from steadyedit import nodes
from steadyedit.standalone import host_api
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
        mask, *_, numbers = found["SteadyEditPointMask"].execute(
            frames, loaded, 1, "20,30", "", "10,12,30,40", "error").result
        assert mask.shape == (1, 75, 53) and mask.any() and numbers == "1"
        tracked, sure, _ = found["SteadyEditTrackMask"].execute(frames, mask, numbers, "auto", 0.0, loaded).result
        assert tracked.shape == (3, 75, 53) and torch.equal(tracked[1], mask[0]) and len(sure.split(",")) == 3
        (wide,) = found["SteadyEditMaskRefine"].execute(tracked, 0, 0, 0, 2, 0.0).result
        assert wide.sum() > tracked.sum()
