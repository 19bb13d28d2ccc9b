"""The metrics node with the host's own CLIP and the host's own loader of optical flow."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from steadyedit import nodes as pack
from steadyedit.backends.comfy_native import clip_models
from steadyedit.toyworld import render, sample_scene
from steadyedit.vision.flow import raft_flow
from tolerances import FLOAT32, NETWORK, RUN


@pytest.fixture(scope="module")
def clip():
    return render(sample_scene(4, "validation", frames=3, size=64, objects=1))


def measured(*given, **more):
    node = next(n for n in pack.node_list() if n.GET_SCHEMA().node_id == "SteadyEditClipMetrics")
    with torch.inference_mode():
        return json.loads(node.execute(*given, **more).result[1])


def test_clip_of_the_host(clip):
    text, vision = clip_models.load_toy_clip()
    found = measured(clip.frames, source=clip.frames, prompt=clip.caption, clip=text, clip_vision=vision)
    assert found["Input Similarity"] == pytest.approx(1, abs=FLOAT32) and 0.9 < found["CLIP-Frame"] <= 1
    assert found["CLIP-Text"] > 0.7 and found["Warping Error"] is not None


@pytest.mark.parametrize(("vision", "sentence"), [
    ("x", "^clip_vision: expected that of Load CLIP Vision, but got a str"),
    ("without an embedding", "^clip_vision: gives no embedding in a space shared with text"),
])  # fmt: skip
def test_a_clip_vision_that_is_none(clip, vision, sentence):
    class Dino:
        def encode_image(self, images, crop=True):
            return (None).to("cpu")  # as the host asks every encoder for its projected output

    with pytest.raises((TypeError, ValueError), match=sentence):
        measured(clip.frames, clip_vision=vision if vision == "x" else Dino())
    with pytest.raises(TypeError, match="^clip: expected that of Load CLIP, but got a str"):
        measured(clip.frames, clip="x", clip_vision=Dino(), prompt="a")


def test_flow_by_the_hosts_loader(clip, tmp_path, monkeypatch):
    """A RAFT of random weights from the models folder: the core node's output is our input."""
    nodes_void = pytest.importorskip("comfy_extras.nodes_void", reason="this host loads no optical flow")
    import folder_paths
    from safetensors.torch import save_file
    from torchvision.models.optical_flow import raft_large

    torch.manual_seed(0)
    network = raft_large(weights=None).eval()
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, tmp_path / "raft.safetensors")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "optical_flow", ([str(tmp_path)], {".safetensors"}))
    (loaded,) = nodes_void.OpticalFlowLoader.execute("raft.safetensors").result
    found = measured(clip.frames, optical_flow=loaded)
    assert found["flow"] == "RAFT, of the edited clip" and found["frames"] == 3
    own = raft_flow(network, clip.frames[0], clip.frames[1])
    assert own.shape == (64, 64, 2) and own.abs().max() > 0
    from steadyedit.nodes.metrics import pair_flow

    there = pair_flow(loaded)[0](clip.frames[0], clip.frames[1])
    assert torch.allclose(there, own, atol=RUN)


def test_the_flow_network_is_loaded_after_the_image_encoder(clip, monkeypatch):
    """Where memory is short, what is loaded later pushes off what was loaded before."""
    import comfy.model_management as management
    from comfy.model_patcher import ModelPatcher

    class Still(torch.nn.Module):
        def forward(self, first, second):
            assert order[-1] == "Still"
            return [torch.zeros(1, 2, *first.shape[2:])]

    order, load = [], management.load_models_gpu
    monkeypatch.setattr(management, "load_models_gpu", lambda models, *given, **more: (
        order.extend(type(patcher.model).__name__ for patcher in models), load(models, *given, **more))[1])
    device = management.get_torch_device()
    flow = ModelPatcher(Still(), load_device=device, offload_device=device)
    found = measured(clip.frames, clip_vision=clip_models.load_toy_clip()[1], optical_flow=flow)
    assert len(order) > 1 and order[-1] == "Still" and found["flow"] == "Still, of the edited clip"


@pytest.fixture
def interpolation_model(tmp_path, monkeypatch):
    """A narrow RIFE of random weights, by the host's own loader."""
    core = pytest.importorskip("comfy_extras.nodes_frame_interpolation", reason="this host interpolates no frames")
    import folder_paths
    from comfy_extras.frame_interpolation_models.ifnet import IFNet
    from safetensors.torch import save_file

    network, generator = IFNet(head_ch=4, channels=(8,) * 5), torch.Generator().manual_seed(0)
    weights = {k: 0.2 * torch.randn(v.shape, generator=generator) for k, v in network.state_dict().items()}
    save_file(weights, tmp_path / "rife.safetensors")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "frame_interpolation", ([str(tmp_path)], {".safetensors"}))
    return core.FrameInterpolationModelLoader.execute("rife.safetensors").result[0]


@pytest.mark.parametrize(("count", "predicted"), [(4, [1]), (5, [1, 3])])
def test_frames_predicted_by_the_hosts_network(interpolation_model, count, predicted):
    """Against the network called by hand on each pair of neighbours, and errors in numpy; 80 pixels are padded."""
    frames = render(sample_scene(4, "validation", frames=count, size=80, objects=1)).frames
    found = measured(frames, interpolation_model=interpolation_model)
    network, errors = interpolation_model.model, []
    for number in predicted:
        before, after = (torch.nn.functional.pad(frames[n][None].movedim(-1, 1), (0, 48, 0, 48), mode="reflect")
                         for n in (number - 1, number + 1))  # fmt: skip
        with torch.inference_mode():
            between = network(before, after, 0.5)[0, :, :80, :80].movedim(0, -1).clamp(0, 1)
        errors.append(np.sqrt(np.square(between.numpy().astype(float) - frames[number].numpy()).mean()))
    assert found["Interpolation Error (network)"] == pytest.approx(np.mean(errors), rel=NETWORK)
    assert found["Interpolation PSNR (network)"] == pytest.approx(np.mean(-20 * np.log10(errors)), rel=NETWORK)
    assert found["interpolator (network)"] == "IFNet, frames 1, 3, 5, ... from both neighbours"
    by_flow = measured(frames)
    assert by_flow.items() <= (found | {"interpolator (network)": None}).items()
    assert "Interpolation Error (network)" not in by_flow
    assert abs(found["Interpolation Error (network)"] - found["Interpolation Error (flow)"]) > 0.01


def test_clips_that_the_network_cannot_interpolate(interpolation_model, clip):
    found = measured(clip.frames[:2], interpolation_model=interpolation_model)
    assert found["Interpolation Error (network)"] is found["Interpolation PSNR (network)"] is None
    with pytest.raises(ValueError, match="^images: are 64x63, too small for interpolation_model; use frames of at"):
        measured(clip.frames[:, 1:], interpolation_model=interpolation_model)


def test_a_host_without_that_node_refuses_its_model(clip, monkeypatch):
    monkeypatch.setitem(sys.modules, "comfy_extras.nodes_frame_interpolation", None)
    loaded = SimpleNamespace(load_device="cpu", model=SimpleNamespace(extract_features=None))
    with pytest.raises(ValueError, match="^interpolation_model: needs a ComfyUI that has Run Frame Interpolation"):
        measured(clip.frames, interpolation_model=loaded)
