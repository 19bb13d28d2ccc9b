"""Beside the host's own nodes: LoRA loaders, KSamplerAdvanced, SamplerCustom, a ControlNet."""

from __future__ import annotations

import comfy.controlnet
import comfy.sd
import pytest
import torch
from steadyedit.backends.comfy_native import toy
from toys import (
    BACKEND,
    FRAMES,
    SIDE,
    Quiet,
    assert_close,
    assert_untouched,
    attached,
    clip,
    model,
    text,
    traces,
    weights,
)

STEPS = 4


def custom_sampler(patcher, positive=None, guidance=4.0):
    """The stock SamplerCustom from given latents, adding no noise."""
    from comfy_extras.nodes_custom_sampler import SamplerCustom

    sampler = comfy.samplers.sampler_object("euler")
    sigmas = BACKEND.schedule(patcher).ddim_sigmas(STEPS)
    out = SamplerCustom.execute(
        patcher, False, 0, guidance, positive or text(1), text(2), sampler, sigmas, {"samples": clip(), "kept": 1})
    assert out[0]["kept"] == 1
    return out[0]["samples"]


def test_sampler_custom_is_our_ddim():
    patcher = attached(model(), "stam", "ffam")
    sigmas = BACKEND.schedule(patcher).ddim_sigmas(STEPS)
    ours = BACKEND.sample(patcher, text(1), text(2), 4.0, clip(), sigmas, Quiet())
    assert_close(custom_sampler(patcher), ours)


def test_ksampler_advanced_gives_the_same():
    import nodes

    patcher = attached(model(), "stam", "ffam")
    (out,) = nodes.KSamplerAdvanced().sample(
        patcher, "disable", 0, STEPS, 4.0, "euler", "ddim_uniform", text(1), text(2), {"samples": clip()}, 0, 10000,
        "disable")  # fmt: skip
    assert_close(out["samples"], custom_sampler(patcher))


def test_a_lora_before_or_after_or_both():
    name = BACKEND.sites(model())[0].path + ".attn2.to_k"
    torch.manual_seed(4)
    lora = {
        f"diffusion_model.{name}.lora_A.weight": torch.randn(4, 96) * 0.3,
        f"diffusion_model.{name}.lora_B.weight": torch.randn(64, 4) * 0.3,
    }
    plain = model()
    before, marks = weights(plain), traces(plain)

    def with_lora(patcher):
        loaded, _ = comfy.sd.load_lora_for_models(patcher, None, lora, 1.0, 0.0)
        assert loaded.patches
        return loaded

    after, under = custom_sampler(with_lora(attached(plain, "stam", "ffam"))), custom_sampler(
        attached(with_lora(plain), "stam", "ffam"))  # fmt: skip
    assert_close(after, under)
    assert not torch.allclose(after, custom_sampler(attached(plain, "stam", "ffam")), atol=1e-3)
    plain.unpatch_model()
    assert_untouched(plain, before, marks)


@pytest.fixture(scope="module")
def controlnet():
    """A random ControlNet of the toy U-Net's shape."""
    import comfy.cldm.cldm

    config = toy.unet_config()
    del config["out_channels"], config["transformer_depth_output"]
    torch.manual_seed(5)
    network = comfy.cldm.cldm.ControlNet(hint_channels=3, num_heads=4, **config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.normal_(0, 0.05)
            if parameter.ndim == 1 and name.endswith("weight"):
                parameter.fill_(1)
    network.dtype = torch.float32
    return comfy.controlnet.ControlNet(network.eval(), load_device=torch.device("cpu"))


def test_a_controlnet_joins_in(controlnet):
    import nodes

    hint = torch.rand(FRAMES, SIDE * 8, SIDE * 8, 3)
    positive, _ = nodes.ControlNetApplyAdvanced().apply_controlnet(text(1), text(2), controlnet, hint, 1.0, 0.0, 1.0)
    patcher = attached(model(), "stam", "ffam")
    with_it, without = custom_sampler(patcher, positive), custom_sampler(patcher)
    assert torch.isfinite(with_it).all()
    assert not torch.allclose(with_it, without, atol=1e-3)


def test_training_under_a_controlnet(controlnet):
    """The conditioning's ControlNet takes part in training, and nothing of it is trained."""
    from steadyedit.methods.registry import build

    import nodes

    hint = torch.rand(FRAMES, SIDE * 8, SIDE * 8, 3)
    positive, _ = nodes.ControlNetApplyAdvanced().apply_controlnet(text(1), text(2), controlnet, hint, 1.0, 0.0, 1.0)
    patcher, losses = model(), []
    stam = build("stam", BACKEND.sites(patcher), {})
    with torch.inference_mode():
        for conditioning in (positive, text(1)):
            with BACKEND.training(patcher, [stam], conditioning, FRAMES) as view:
                loss = view.predict_noise(clip(), torch.tensor(500)).square().mean()
                loss.backward()
                losses.append(loss.item())
    assert losses[0] != pytest.approx(losses[1], rel=1e-4)
