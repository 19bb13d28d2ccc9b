"""The toy ControlNet in the host: by the pack's loader and by the core one; stand-ins of the nodes around it."""

from __future__ import annotations

import comfy.controlnet
import pytest
import torch
from steadyedit.backends.comfy_native import toy
from steadyedit.backends.diffusers.control import ControlNet
from steadyedit.standalone import core_control
from steadyedit.toyworld import models
from tolerances import FLOAT32, NETWORK
from toys import SIDE, assert_close, clip, sample, text, under

import nodes

pytestmark = pytest.mark.skipif(not models.weights_path("controlnet").exists(), reason="the ControlNet is not trained")


def hints(frames: int = 3):
    return (torch.rand(frames, 8 * SIDE, 8 * SIDE, 3, generator=torch.Generator().manual_seed(1)) > 0.9).float()


def controlled(patcher, control_net):
    return sample(patcher, steps=1, positive=under(control_net, hints(), text(1)))


@pytest.fixture
def seen(monkeypatch):
    """What ControlNets were shown and gave, call by call; the U-Net empties the lists that it is handed."""
    calls, inner = [], comfy.controlnet.ControlLora.get_control

    def watched(self, x, t, cond, *rest):
        out, sampling = inner(self, x, t, cond, *rest), self.model_sampling_current
        given = {name: list(parts) for name, parts in out.items()}
        calls.append((sampling.calculate_input(t, x), sampling.timestep(t), given))
        return out

    monkeypatch.setattr(comfy.controlnet.ControlLora, "get_control", watched)
    return calls


def test_the_core_loader_reads_the_file():
    """On the model that it was trained from, the file alone is the same ControlNet as by the pack's own loader."""
    patcher = toy.load_unet()
    stock = comfy.controlnet.load_controlnet(str(models.weights_path("controlnet")))
    assert isinstance(stock, comfy.controlnet.ControlLora) and type(toy.load_controlnet()) is type(stock)
    # The host multiplies the file's factors itself, at every call: equal but for rounding.
    assert_close(controlled(patcher, stock), controlled(patcher, toy.load_controlnet()), FLOAT32)


def test_the_packs_loader_needs_nothing_of_the_model(seen):
    """It brings all of its weights: a LoRA on the model reaches the model only."""
    patcher = toy.load_unet()
    patched = patcher.clone()
    key = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_v.weight"
    assert patched.add_patches({key: ("diff", (torch.randn(64, 64),))}, 0.5)
    results = [controlled(value, toy.load_controlnet()) for value in (patcher, patched)]
    first, second = (seen[i][2]["middle"][0] for i in (0, len(seen) // 2))
    assert torch.equal(first, second) and not torch.equal(*results)


def test_it_agrees_with_diffusers(seen):
    """What it adds to the skips and to the middle, at one noise level."""
    control = under(toy.load_controlnet(), hints(), text(1), 0.7)
    sample(toy.load_unet(), steps=1, guidance=1.0, samples=clip(3), positive=control)
    x, t, out = seen[0]
    with torch.no_grad():
        down, middle = models.load_controlnet()(
            x, t, text(1)[0][0].expand(3, -1, -1), hints().movedim(-1, 1), conditioning_scale=0.7, return_dict=False)
    assert_close(out["middle"][0], middle, NETWORK)
    for here, there in zip(out["output"], down, strict=True):
        assert_close(here, there, NETWORK)


def test_canny_is_the_core_nodes():
    from comfy_extras.nodes_canny import Canny

    images = torch.rand(2, 32, 48, 3, generator=torch.Generator().manual_seed(2))
    for thresholds in ((0.1, 0.2), (0.4, 0.8)):
        assert torch.equal(core_control.Canny.execute(images, *thresholds).args[0],
                           Canny.execute(images, *thresholds).args[0])
    assert {i.id for i in Canny.GET_SCHEMA().inputs} == {i.id for i in core_control.Canny.GET_SCHEMA().inputs}


def test_apply_is_the_core_nodes():
    theirs, ours = nodes.ControlNetApplyAdvanced, core_control.ControlNetApplyAdvanced
    known = {name for part in theirs.INPUT_TYPES().values() for name in part}
    assert {i.id for i in ours.GET_SCHEMA().inputs} == known
    positive, negative = ours.execute(text(1), text(2), ControlNet(None), hints(), 0.5, 0.1, 0.9).args
    control = positive[0][1]["control"]
    assert (control.strength, control.start, control.end, control.previous) == (0.5, 0.1, 0.9, None)
    again, _ = ours.execute(positive, negative, ControlNet(None), hints(), 0.2, 0.0, 1.0).args
    assert again[0][1]["control"].previous is control
    assert ours.execute(positive, negative, None, hints(), 0.0, 0.0, 1.0).args == (positive, negative)
