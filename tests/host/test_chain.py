"""Beside the host's own nodes: LoRA loaders, KSamplerAdvanced, SamplerCustom, a ControlNet."""

from __future__ import annotations

import comfy.sd
import pytest
import torch
from dape import with_dape
from steadyedit.backends.comfy_native import toy
from tolerances import NETWORK, RUN
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
    under,
    weights,
)

STEPS = 4


def edges_of_frames():
    """A different drawing for each frame."""
    return (torch.rand(FRAMES, SIDE * 8, SIDE * 8, 3, generator=torch.Generator().manual_seed(8)) > 0.9).float()


def custom_sampler(patcher, positive=None, negative=None, guidance=4.0):
    """The stock SamplerCustom from given latents, adding no noise."""
    from comfy_extras.nodes_custom_sampler import SamplerCustom

    sampler = comfy.samplers.sampler_object("euler")
    sigmas = BACKEND.schedule(patcher).ddim_sigmas(STEPS)
    out = SamplerCustom.execute(
        patcher, False, 0, guidance, positive or text(1), negative or text(2), sampler, sigmas,
        {"samples": clip(), "kept": 1})
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
    assert not torch.allclose(after, custom_sampler(attached(plain, "stam", "ffam")), atol=RUN)
    plain.unpatch_model()
    assert_untouched(plain, before, marks)


@pytest.fixture(scope="module")
def controlnet():
    """The toy ControlNet."""
    return toy.load_controlnet()


BESIDE = [(), ("stam", "ffam"), ("temporal-attention", "sparse-causal"), ("gather-swap",), ("rave",), ("dape", "rave")]


@pytest.mark.parametrize("methods", BESIDE, ids="+".join)
def test_a_controlnet_joins_in(controlnet, methods):
    """Beside each method of the pack: on both conditions, and its hints belong to their frames."""
    hint = edges_of_frames()
    base = with_dape(model()) if "dape" in methods else model()
    patcher = attached(base, *(method for method in methods if method != "dape"))
    plain = custom_sampler(patcher)
    with_it = custom_sampler(patcher, under(controlnet, hint, text(1)), under(controlnet, hint, text(2)))
    turned = custom_sampler(patcher, under(controlnet, hint.flip(0), text(1)), under(controlnet, hint.flip(0), text(2)))
    assert torch.isfinite(with_it).all()
    assert (with_it - plain).abs().max() > 1e-3 * plain.abs().max()
    assert (turned - with_it).abs().max() > 1e-3 * plain.abs().max()
    assert torch.equal(custom_sampler(patcher), plain)


def test_training_under_a_controlnet(controlnet):
    """The conditioning's ControlNet takes part in training, and nothing of it is trained."""
    from steadyedit.methods.registry import build

    positive = under(controlnet, edges_of_frames(), text(1))
    patcher, losses = model(), []
    stam = build("stam", BACKEND.sites(patcher), {})
    with torch.inference_mode():
        for conditioning in (positive, text(1)):
            with BACKEND.training(patcher, [stam], conditioning, FRAMES) as view:
                loss = view.predict_noise(clip(), torch.tensor(500)).square().mean()
                loss.backward()
                losses.append(loss.item())
    assert losses[0] != pytest.approx(losses[1], rel=NETWORK)
