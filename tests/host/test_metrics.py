"""The metrics node with the host's own CLIP and the host's own loader of optical flow."""

from __future__ import annotations

import json

import pytest
import torch
from steadyedit import nodes as pack
from steadyedit.backends.comfy_native import clip_models
from steadyedit.toyworld import render, sample_scene
from steadyedit.vision.flow import raft_flow
from tolerances import FLOAT32, RUN


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
