"""Clips at a model's size and length, and one frame of a clip."""

from __future__ import annotations

import sys
from fractions import Fraction

import pytest
import torch
from steadyedit.standalone.graph import read_graph
from steadyedit.video.clip import VideoClip, of_4n_plus_1

pytestmark = pytest.mark.skipif("comfy_api" in sys.modules, reason="a host is loaded in this process")


@pytest.fixture(scope="module")
def nodes():
    from steadyedit.standalone import host_api

    with host_api.installed():
        from steadyedit.nodes import node_list

        yield {node.GET_SCHEMA().node_id.removeprefix("SteadyEdit"): node for node in node_list()}


def fit(nodes, images, **settings):
    given = {"width": 48, "height": 32, "fit": "crop", "turn": True, "multiple": 16} | settings
    return nodes["FitFrames"].execute(images=images, **given).args


@pytest.mark.parametrize(("height", "width", "turn", "size"), [
    (64, 96, True, (32, 48)), (96, 64, True, (48, 32)), (96, 64, False, (32, 48)), (64, 64, True, (32, 48)),
])  # fmt: skip
def test_the_size_turns_with_the_clip(nodes, height, width, turn, size):
    images, wide, high = fit(nodes, torch.rand(2, height, width, 3), turn=turn)
    assert images.shape == (2, *size, 3) and (high, wide) == size


def test_a_portrait_clip_keeps_all_of_its_picture(nodes):
    rows = torch.linspace(0, 1, 96)[None, :, None, None].expand(1, 96, 64, 3)
    turned, _, _ = fit(nodes, rows)
    assert turned.min() < 0.02 and turned.max() > 0.98
    cut, _, _ = fit(nodes, rows, turn=False)
    assert cut.min() > 0.25 and cut.max() < 0.75, "cut to landscape its upper and lower parts are gone"


def test_a_size_that_no_model_takes_is_refused_before_the_run(nodes):
    node = nodes["FitFrames"]
    assert node.validate_inputs(width=48, height=32, multiple=16) is True
    assert node.validate_inputs(width=None, height=None, multiple=16) is True, "linked: seen when it runs"
    assert node.validate_inputs(width=830, height=480, multiple=16) == (
        "width: 830 pixels do not divide by 16; use 816 or 832.")
    with pytest.raises(ValueError, match="^height: 30 pixels do not divide by 16; use 16 or 32"):
        fit(nodes, torch.rand(1, 32, 32, 3), height=30)


def test_a_frame_beyond_the_clip_is_told(nodes):
    clip, pick = torch.rand(5, 8, 8, 3), nodes["PickFrame"].execute
    assert torch.equal(pick(images=clip, frame=3).args[0], clip[3:4])
    assert torch.equal(pick(images=clip, frame=-1).args[0], clip[4:5])
    for beyond in (5, -6, 24):
        with pytest.raises(ValueError, match=f"^frame: there is no frame {beyond} in a clip of 5; use 0 to 4"):
            pick(images=clip, frame=beyond)


@pytest.mark.parametrize(("frames", "kept"), [(1, 1), (4, 1), (5, 5), (48, 45), (49, 49)])
def test_what_4n_plus_1_does_not_take_is_left_out_with_its_sound(frames, kept):
    sound = {"waveform": torch.arange(frames * 10.0)[None, None], "sample_rate": 300}
    clip = VideoClip(torch.rand(frames, 2, 2, 3), Fraction(30), sound, ("deinterlaced",))
    out = of_4n_plus_1(clip)
    assert torch.equal(out.frames, clip.frames[:kept]) and out.fps == 30
    assert torch.equal(out.audio["waveform"], sound["waveform"][..., : kept * 10])
    said = () if kept == frames else (f"{frames - kept} of {frames} frames left out at the end, for 4N + 1",)
    assert out.notes == ("deinterlaced", *said)


def test_boxes_that_are_all_dropped_are_told_by_box_mask(nodes):
    box = nodes["BoxMask"].execute
    given = {"shape": "boxes", "growth": 0.05, "smallest": 50, "pixels": 16}
    mask = torch.zeros(3, 32, 32)
    with pytest.raises(ValueError, match="^mask: is empty in every frame"):
        box(mask=mask, **given)
    mask[1, 4:9, 4:9] = 1
    with pytest.raises(ValueError, match="^smallest: every box has fewer than 50 pixels"):
        box(mask=mask, **given)
    assert box(mask=mask, **(given | {"smallest": 25})).args[0].sum() == 25


@pytest.mark.parametrize("name", ["lora_edit_wan", "lora_edit_wan22", "lora_edit_wan_low_vram", "lora_edit_hunyuan",
                                  "lora_edit_wan_reference_frames"])  # fmt: skip
def test_clip_and_mask_are_looked_at_before_the_video_model_is_loaded(nodes, name):
    """From its outputs a run reaches the loaders of what is trained by lazy inputs only."""
    graph = read_graph(name)
    lazy = {(node_id, given.id) for node_id, node in nodes.items() for given in node.GET_SCHEMA().inputs
            if given.settings.get("lazy")}  # fmt: skip

    def asked_for(key, seen):
        if key not in seen:
            seen.add(key)
            kind = graph[key]["class_type"].removeprefix("SteadyEdit")
            for given, value in graph[key]["inputs"].items():
                if isinstance(value, list) and (kind, given) not in lazy:
                    asked_for(value[0], seen)
        return seen

    outputs = [key for key in graph if not any(isinstance(v, list) and v[0] == key for node in graph.values()
                                               for v in node["inputs"].values())]  # fmt: skip
    at_once = set().union(*(asked_for(key, set()) for key in outputs))
    trained = {node["inputs"]["model"][0] for node in graph.values()
               if node["class_type"] == "SteadyEditMaskLoRATrain"}  # fmt: skip
    texts = {value[0] for node in graph.values() for value in node["inputs"].values() if isinstance(value, list)
             and node["class_type"] in ("CLIPTextEncode", "TextEncodeHunyuanVideo_ImageToVideo")
             and graph[value[0]]["class_type"] in ("CLIPLoader", "DualCLIPLoader")}  # fmt: skip
    assert trained and texts and not at_once & (trained | texts)
    assert {"SteadyEditMaskSample", "SteadyEditMaskCondition"} <= {graph[key]["class_type"] for key in at_once}
