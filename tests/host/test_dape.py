"""DAPE on the host's MODEL: the plain model at its start, at strength 0 and afterwards; on every base of the pack."""

from __future__ import annotations

import comfy.samplers
import comfy.sd
import pytest
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from dape import dape, with_dape
from steadyedit.backends.comfy_native.blocks import located
from steadyedit.backends.comfy_native.norms import located_norms
from steadyedit.methods.attachment import Attachment
from steadyedit.methods.dape.positions import stages
from steadyedit.methods.registry import build
from test_full_size import UNET
from test_training import reloaded
from tolerances import EIGHT_BITS, FLOAT32, NETWORK, RUN
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
    sample,
    separate_calls,
    text,
    traces,
    weights,
)  # fmt: skip


def with_lora(patcher):
    name = BACKEND.sites(patcher)[0].path + ".attn2.to_k"
    generator = torch.Generator().manual_seed(4)
    lora = {f"diffusion_model.{name}.lora_A.weight": torch.randn(4, 96, generator=generator) * 0.3,
            f"diffusion_model.{name}.lora_B.weight": torch.randn(64, 4, generator=generator) * 0.3}  # fmt: skip
    loaded, _ = comfy.sd.load_lora_for_models(patcher, None, lora, 1.0, 0.0)
    assert loaded.patches
    return loaded


def with_norm_lora(patcher):
    """A LoRA file may change the very norms that are tuned."""
    sites = BACKEND.norms(patcher)[:3]
    generator = torch.Generator().manual_seed(3)
    lora = {f"diffusion_model.{s.path}.diff": torch.randn(s.channels, generator=generator) * 0.2 for s in sites}
    loaded, _ = comfy.sd.load_lora_for_models(patcher, None, lora, 1.0, 0.0)
    assert len(loaded.patches) == 3
    return loaded


def swapped(patcher, **settings):
    return BACKEND.attach(patcher, build("gather-swap", BACKEND.sites(patcher), {"group": 2, **settings}))


BASES = {
    "plain": lambda m: m,
    "EI2": lambda m: attached(m, "stam", "ffam"),
    "SimDA": lambda m: attached(m, "simda"),
    "Tune-A-Video": lambda m: attached(m, "temporal-attention", "sparse-causal"),
    "gather-swap": swapped,
    "gather-swap in chunks of 1": lambda m: swapped(m, chunk=1),
    "RAVE": lambda m: BACKEND.attach(m, build("rave", BACKEND.sites(m), {"grid": 2})),
    "a LoRA": with_lora,
    "a LoRA on norms": with_norm_lora,
    "EI2 on a LoRA": lambda m: attached(with_lora(m), "stam", "ffam"),
}


@pytest.mark.parametrize("base", BASES)
def test_the_start_and_strength_0_are_the_base_bit_for_bit(base):
    under = BASES[base](model())
    expected = sample(under)
    for start in (with_dape(under, scale=0), with_dape(under, strength=0.0)):
        assert torch.equal(sample(start), expected)


@pytest.mark.once
@pytest.mark.parametrize("base", BASES)
def test_on_every_base_it_works_and_leaves_no_trace(base):
    plain = model()
    under = BASES[base](plain)
    before, marks, expected = weights(plain), traces(plain), sample(under)
    alone = [sample(with_dape(under, method)) for method in ("norm-tune", "visual-adapter")]
    both = sample(with_dape(under))
    for first, second in ((alone[0], expected), (alone[1], expected), (both, alone[0]), (both, alone[1])):
        assert torch.isfinite(first).all() and not torch.allclose(first, second, atol=RUN)
    plain.unpatch_model()
    assert_untouched(plain, before, marks)
    assert torch.equal(sample(under), expected)


@pytest.mark.parametrize("base", ["plain", "EI2", "gather-swap"])
def test_conditions_together_or_apart_give_the_same(base):
    patcher = with_dape(BASES[base](model()))
    assert_close(sample(separate_calls(patcher)), sample(patcher))


def test_frames_do_not_see_each_other():
    """So that it goes with chunks and lanes: three frames at once are three frames one by one."""
    patcher = with_dape(model())
    together, one_by_one = sample(patcher), [sample(patcher, samples=frame[None]) for frame in clip()]
    assert_close(torch.cat(one_by_one), together)
    assert not any(attachment.mixes_frames for attachment in BACKEND.attachments(patcher))


def test_the_order_of_the_norms_is_that_of_the_forward_pass():
    """Every norm layer of the U-Net is among the sites, in the order in which a forward asks them."""
    patcher, asked = model(), []
    sites = {site.path: site for site in BACKEND.norms(patcher)}
    layers = {patcher.model.diffusion_model.get_submodule(path): path for path in sites}
    kinds = (torch.nn.GroupNorm, torch.nn.LayerNorm)
    assert set(layers) == {m for m in patcher.model.diffusion_model.modules() if isinstance(m, kinds)}
    handles = [layer.register_forward_pre_hook(lambda m, x: asked.append(layers[m])) for layer in layers]
    sample(patcher, guidance=1.0, steps=1)
    for handle in handles:
        handle.remove()
    assert asked == list(sites)
    for layer, path in layers.items():
        assert (sites[path].channels, sites[path].eps) == (layer.weight.numel(), layer.eps)
        assert sites[path].groups == getattr(layer, "num_groups", 0)


def test_what_is_computed_is_the_papers_equation():
    """One norm alone, against the equation on the layer's input in float64; one adapter likewise."""
    patcher, seen = model(), {}
    path = "output_blocks.3.1.norm" if "output_blocks.3.1.norm" in {s.path for s in BACKEND.norms(patcher)} else (
        next(s.path for s in BACKEND.norms(patcher) if s.path.endswith("1.norm")))
    layer = patcher.model.diffusion_model.get_submodule(path)
    (attachment,) = dape(patcher, "norm-tune", scale=0.3)
    module = attachment.norms[path.replace(".", "/")]
    handle = layer.register_forward_hook(lambda m, x, y: seen.update(x=x[0].clone(), y=y.clone()))
    sample(BACKEND.attach(patcher, attachment), steps=1)
    handle.remove()
    z = seen["x"].double()
    wide = lambda w: w.detach().double()[:, None, None]  # noqa: E731
    normed = torch.nn.functional.group_norm(z, layer.num_groups, eps=layer.eps)
    expected = (wide(layer.weight) + wide(module.gamma)) * normed + wide(layer.bias) + wide(module.beta)
    assert_close(seen["y"].double(), expected + wide(module.gamma0) * z, FLOAT32)


@pytest.mark.once
@pytest.mark.parametrize("placement", ["attn2", "attn1", "ff"])
@pytest.mark.parametrize("base", ["plain", "EI2", "gather-swap"])
def test_the_adapter_is_asked_once_a_call_before_the_residual(placement, base):
    """Also where the attention itself is replaced, and by no more rows than the block sees."""
    patcher = BASES[base](model())
    (attachment,) = dape(patcher, "visual-adapter", scale=0.1, placement=placement)
    calls = dict.fromkeys(attachment.outputs, 0)
    for key, module in attachment.outputs.items():
        module.register_forward_hook(lambda m, x, y, key=key: calls.__setitem__(key, calls[key] + 1))
    changed = sample(BACKEND.attach(patcher, attachment), guidance=1.0, steps=1)
    assert not torch.allclose(changed, sample(patcher, guidance=1.0, steps=1), atol=RUN)
    # Gather-swap: the lanes' call, then the frames'.
    assert set(calls.values()) == {2 if base == "gather-swap" else 1}


def test_position_5_is_the_first_attention_of_the_way_up():
    """Number 5 of the toy U-Net as of Stable Diffusion, by the host's own names."""
    sites = BACKEND.sites(model())
    found = stages(sites)
    assert len(found) == 7
    (attachment,) = dape(model(), "visual-adapter", positions=[5])
    assert set(attachment.outputs) == {site.key + "/attn2" for site in found[4]}
    first = next(site for site in sites if site.stage == "output")
    assert first in found[4]


def test_noise_masks_stay():
    patcher = with_dape(model())
    guider = comfy.samplers.CFGGuider(patcher)
    guider.set_conds(text(1), text(2))
    guider.set_cfg(4.0)
    mask = torch.zeros(1, 1, SIDE, SIDE)
    mask[..., : SIDE // 2] = 1
    sigmas, sampler = BACKEND.schedule(patcher).ddim_sigmas(3), comfy.samplers.sampler_object("euler")
    out = guider.sample(clip(seed=8), clip(), sampler, sigmas, denoise_mask=mask, disable_pbar=True, seed=1)
    assert_close(out[..., SIDE // 2 :], clip()[..., SIDE // 2 :], NETWORK)
    assert not torch.allclose(out[..., : SIDE // 2], clip()[..., : SIDE // 2], atol=EIGHT_BITS)


@pytest.mark.parametrize("error", [KeyboardInterrupt, torch.OutOfMemoryError])
def test_after_an_error_or_a_cancel_nothing_is_left(error):
    plain = model()
    expected, before, marks = sample(plain), weights(plain), traces(plain)
    patcher = with_dape(plain)
    sigmas = BACKEND.schedule(patcher).ddim_sigmas(3)
    with pytest.raises(error):
        BACKEND.sample(patcher, text(1), text(2), 7.5, clip(), sigmas, Quiet(1, error))

    def fails(*arguments):
        raise error("inside a norm")

    (attachment,) = dape(plain, "norm-tune", scale=0.1)
    attachment.norms["out/0"].register_forward_hook(fails)
    with pytest.raises(error):
        sample(BACKEND.attach(plain, attachment))
    assert_untouched(plain, before, marks)
    assert torch.equal(sample(plain), expected)


def test_modules_are_under_the_hosts_memory_management():
    patcher = with_dape(model())
    held = [loaded.model for loaded in patcher.get_additional_models()]
    assert held == [a.trees[0] for a in BACKEND.attachments(patcher)]
    assert all(loaded.model_size() > 0 for loaded in patcher.get_additional_models())
    again = with_dape(patcher, "norm-tune", strength=0.5)
    assert [a.method for a in BACKEND.attachments(again)] == ["visual-adapter", "norm-tune"]
    assert len(again.get_additional_models()) == 2


def test_norms_of_another_model_are_refused():
    norms = torch.nn.ModuleDict({"input_blocks/7/1/norm": torch.nn.Linear(1, 1)})
    with pytest.raises(ValueError, match="model: has no norm layer input_blocks.7.1.norm"):
        BACKEND.attach(model(), Attachment("norm-tune", norms=norms))


def test_one_frame():
    out = sample(with_dape(model()), samples=clip(1))
    assert out.shape == clip(1).shape and torch.isfinite(out).all() and FRAMES > 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e4m3fn], ids=str)
def test_stored_weights_may_be_narrow(dtype):
    """The host lends its norms' weights as it would use them: bit for bit the base at the start, here too."""
    patcher = reloaded(dtype)
    for layer in patcher.model.diffusion_model.modules():
        if hasattr(layer, "comfy_cast_weights"):
            layer.comfy_cast_weights = True
    with torch.inference_mode():
        expected = sample(patcher)
        assert torch.equal(sample(with_dape(patcher, scale=0)), expected)
        assert not torch.allclose(sample(with_dape(patcher)), expected, atol=RUN)


def test_stable_diffusion_s_own_numbers():
    """Norms, their parameters, and where position 5 lies in the U-Net of Stable Diffusion 1.5, none of it in memory."""
    with torch.device("meta"):
        unet = UNetModel(**UNET)
        norms, sites = [site for site, _ in located_norms(unet)], [site for site, _ in located(unet)]
        counts = {}
        for kinds in (("resnet", "attention"), ("resnet", "attention", "final")):
            modules = build("norm-tune", sites, {"kinds": kinds}, norms).norms
            named = [(name.rsplit(".", 1)[1], p.numel()) for name, p in modules.named_parameters()]
            affine, shares = (sum(n for name, n in named if (name == "gamma0") == of) for of in (False, True))
            counts[len(modules)] = (affine, shares)
        adapter = build("visual-adapter", sites, {}).outputs
    assert counts == {108: (199_680, 99_840), 109: (200_320, 100_160)}
    assert [site.path.rsplit(".", 3)[0] for site in stages(sites)[4]] == [f"output_blocks.{n}" for n in (3, 4, 5)]
    assert sorted(adapter) == [f"output_blocks/{n}/1/transformer_blocks/0/attn2" for n in (3, 4, 5)]
    c, m, k = 1280, 64, 5
    assert {sum(p.numel() for p in module.parameters()) for module in adapter.values()} == {
        2 * c * m + 4 * c + m * (k * k + 1)}  # fmt: skip
