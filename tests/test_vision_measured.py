"""The metrics node without ComfyUI: what it says of a good, a flickering and a changed clip, and what it refuses."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from steadyedit import nodes
from steadyedit.backends import current
from steadyedit.standalone import host_api
from steadyedit.toyworld import render, sample_scene
from steadyedit.vision import metrics
from steadyedit.vision.flow import consistent, estimate_flow
from steadyedit.vision.measured import Measured
from tolerances import FLOAT32, NETWORK


@pytest.fixture(scope="module")
def clip():
    return render(sample_scene(4, "validation", frames=4, size=64, objects=1, photo=False, background="brick"))


@pytest.fixture(scope="module")
def node():
    with host_api.installed():
        yield next(n for n in nodes.node_list() if n.GET_SCHEMA().node_id == "SteadyEditClipMetrics")


def values(node, *given, **more):
    report, text = node.execute(*given, **more).result
    found = json.loads(text)
    assert all(f"{name}: " in report for name, value in found.items() if value is not None)
    return found


def test_a_clip_alone(node, clip):
    found = values(node, clip.frames)
    there = estimate_flow(clip.frames)
    valid = consistent(there, estimate_flow(clip.frames.flip(0)).flip(0))
    assert found["Warping Error"] == pytest.approx(metrics.warp_error(clip.frames, there, valid), rel=NETWORK)
    error = metrics.interpolation(clip.frames, there, valid)[0]
    assert found["Interpolation Error (flow)"] == pytest.approx(error, rel=NETWORK)
    assert found["flow"] == "iterative Lucas-Kanade (scikit-image), of the edited clip" and found["frames"] == 4
    assert not {"CLIP-Frame", "PSNR outside the mask"} & set(found)


def test_a_flickering_edit_is_told_from_a_steady_one(node, clip):
    steady = clip.frames * 0.8
    flickering = clip.frames * torch.tensor([0.8, 0.7, 0.8, 0.7])[:, None, None, None]
    kept, lost = (values(node, frames, source=clip.frames) for frames in (steady, flickering))
    assert lost["Warping Error"] > 3 * kept["Warping Error"]
    assert lost["Interpolation PSNR (flow)"] < kept["Interpolation PSNR (flow)"]
    assert kept["flow"].endswith("of the source")


def test_warping_error_as_lai_et_al_define_it(node, clip):
    found = values(node, clip.frames, warping_error="lai")
    there = estimate_flow(clip.frames)
    valid = consistent(there, estimate_flow(clip.frames.flip(0)).flip(0))
    expected = metrics.warp_error(clip.frames, there, valid, "lai")
    assert found["Warping Error (Lai et al.)"] == pytest.approx(expected, rel=NETWORK)
    assert "Warping Error" not in found and expected != metrics.warp_error(clip.frames, there, valid)


def test_what_was_to_stay(node, clip):
    edited = torch.where(clip.masks[0][..., None] > 0, 1 - clip.frames, clip.frames + 0.01)
    found = values(node, edited, source=clip.frames, mask=(clip.masks[0] > 0).float())
    assert found["PSNR outside the mask"] == pytest.approx(40, abs=0.01)


def test_clip_s_measures(node, clip):
    text, vision = current().load_toy_clip()
    given = {"source": clip.frames, "prompt": clip.caption, "clip": text, "clip_vision": vision}
    same, other = values(node, clip.frames, **given), values(node, 1 - clip.frames, **given)
    assert same["Input Similarity"] == pytest.approx(1, abs=FLOAT32) and same["CLIP-Frame"] > 0.9
    assert other["Input Similarity"] < 0.95 and other["CLIP-Text"] < same["CLIP-Text"]


def test_clip_frame_and_clip_text_against_cosines_in_numpy(node, clip):
    """All pairs of frames, not neighbours alone; each frame and the prompt."""
    text, vision = current().load_toy_clip()
    edited = clip.frames * torch.tensor([1.0, 0.8, 0.2, 0.6])[:, None, None, None]
    found = values(node, edited, prompt=clip.caption, clip=text, clip_vision=vision)
    frames = current().image_embeddings(vision, edited).double().numpy()
    prompt = current().text_embedding(text, clip.caption)[0].double().numpy()

    def cosine(a, b):
        return (a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum())

    pairs = {(i, j): cosine(frames[i], frames[j]) for i in range(4) for j in range(i + 1, 4)}
    assert found["CLIP-Frame"] == pytest.approx(sum(pairs.values()) / 6, abs=FLOAT32)
    assert found["CLIP-Text"] == pytest.approx(sum(cosine(frame, prompt) for frame in frames) / 4, abs=FLOAT32)
    # Means of something else would show.
    neighbours = [cosine(frames[i], frames[i + 1]) for i in range(3)]
    with_itself = (2 * sum(pairs.values()) + 4) / 16
    mean_frame = cosine(frames.mean(0), prompt)
    assert min(abs(found["CLIP-Frame"] - value) for value in (np.mean(neighbours), with_itself)) > 10 * FLOAT32
    assert abs(found["CLIP-Text"] - mean_frame) > 10 * FLOAT32


def test_clip_score_is_of_the_edited_first_frame(node, clip):
    """LoRA-Edit's two by CLIP, against cosines in numpy."""
    vision = current().load_toy_clip()[1]
    first, edited = 1 - clip.frames[:1], clip.frames * 0.5
    found = values(node, edited, source=clip.frames, clip_vision=vision, first_frame=first)
    unit = [embedded / np.linalg.norm(embedded, axis=-1, keepdims=True) for embedded in (
        current().image_embeddings(vision, frames).double().numpy() for frames in (edited, first, clip.frames))]
    assert found["CLIP Score"] == pytest.approx(float((unit[0] @ unit[1].T).mean()), abs=FLOAT32)
    assert found["Input Similarity"] == pytest.approx(float((unit[0] * unit[2]).sum(-1).mean()), abs=FLOAT32)
    assert abs(found["CLIP Score"] - found["Input Similarity"]) > 0.01
    with pytest.raises(ValueError, match="clip_vision: is not connected, but first_frame is"):
        node.execute(edited, first_frame=first)


def test_a_single_frame_has_no_motion(node, clip):
    found = values(node, clip.frames[:1])
    assert found["Warping Error"] is None and found["Interpolation PSNR (flow)"] is None


@pytest.mark.parametrize(("more", "sentence"), [
    ({"source": torch.zeros(3, 64, 64, 3)}, "^source: 3 frames of 64x64, but images are 4 frames of 64x64"),
    ({"mask": torch.zeros(1, 64, 64)}, "^source: is not connected, but mask is"),
    ({"source": torch.zeros(4, 64, 64, 3), "mask": torch.zeros(2, 64, 64)}, "^mask: 2 of 64x64, but images are 4"),
    ({"clip": object()}, "^clip_vision: is not connected"),
    ({"clip": object(), "clip_vision": object(), "prompt": " "}, "^prompt: is empty"),
])  # fmt: skip
def test_bad_input_is_one_sentence(node, clip, more, sentence):
    with pytest.raises(ValueError, match=sentence):
        node.execute(clip.frames, **more)


@pytest.mark.parametrize(("more", "sentence"), [
    ({"clip_vision": "x"}, "^clip_vision: expected a CLIP_VISION, but got a str"),
    ({"clip": "x", "clip_vision": "x", "prompt": "a"}, "^clip: expected a CLIP, but got a str"),
])  # fmt: skip
def test_encoders_that_are_none(node, clip, more, sentence):
    with pytest.raises(TypeError, match=sentence):
        node.execute(clip.frames, **more)


@pytest.mark.parametrize("side", [(1, 1), (1, 64), (7, 7)])
def test_frames_too_small_to_move_in(node, side):
    with pytest.raises(ValueError, match=f"^images: are {side[1]}x{side[0]}, too small to see motion in; use frames"):
        node.execute(torch.rand(2, *side, 3))
    assert values(node, torch.rand(1, *side, 3))["Warping Error"] is None  # no motion is asked for


def test_values_that_no_screen_shows_are_cut_and_told(node, clip):
    beyond = clip.frames * 1.5 - 0.2
    found, shown = values(node, beyond, source=clip.frames), values(node, beyond.clamp(0, 1), source=clip.frames)
    assert found.pop("cut to 0..1").startswith("images from -0.09") and shown.pop("cut to 0..1") is None
    assert found == shown
    # Rounding is no such value.
    assert values(node, clip.frames + 1e-6)["cut to 0..1"] is None


def test_a_flow_that_is_none(node, clip):
    with pytest.raises(TypeError, match="^optical_flow: expected a loaded flow network, but got str"):
        node.execute(clip.frames, optical_flow="raft")


@pytest.mark.parametrize(("given", "error", "sentence"), [
    ("rife", TypeError, "expected a loaded interpolation network, but got str; connect Load Frame Interpolation Model"),
    (SimpleNamespace(load_device="cpu", model=SimpleNamespace(extract_features=None)), ValueError,
     "needs a ComfyUI that has Run Frame Interpolation Model, which this one has not"),
])  # fmt: skip
def test_an_interpolation_model_that_cannot_run(node, clip, given, error, sentence):
    with pytest.raises(error, match=f"^interpolation_model: {sentence}"):
        node.execute(clip.frames, interpolation_model=given)


def test_a_reader_sees_the_scale_of_the_papers_beside_ours():
    found = Measured({"CLIP-Frame": 0.95123, "Interpolation Error (flow)": 0.0331, "Warping Error": 0.002})
    assert found.lines().split("\n") == ["CLIP-Frame: 0.9512 (in papers 95.12)",
                                        "Interpolation Error (flow): 0.03310 (in papers 3.31)",
                                        "Warping Error: 0.002000 (in papers 0.20)"]  # fmt: skip
