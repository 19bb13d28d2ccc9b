"""A LoRA trains inside the host's own video transformers: the gradients of a plain copy, and no trace afterwards."""

from __future__ import annotations

import copy
from dataclasses import replace

import comfy.ldm.flux.math
import comfy.ldm.wan.model
import comfy.model_management
import pytest
import torch
import torch.nn.functional as F
from steadyedit.backends import offload
from steadyedit.backends.comfy_native import frozen_layers, video, video_blocks, video_network
from steadyedit.backends.comfy_native.video_blocks import rotated
from steadyedit.methods.lora import factors, new_lora
from steadyedit.methods.lora_edit import memory
from steadyedit.methods.lora_edit.memory import MemoryPlan
from steadyedit.methods.lora_edit.recipe import targeted
from tolerances import FLOAT32, NETWORK, RUN
from toys import assert_untouched, traces, weights
from videos import BACKEND, model, sample

KINDS = ("wan", "plain", "hunyuan", "hunyuan 1.5")
ANY = MemoryPlan(0, 0, 0, 0)
SIGMA = 0.37


def moving_lora(patcher, targets="attention and feed-forward", rank=3):
    """A LoRA away from its start, so that every matrix has a gradient."""
    shapes = BACKEND.video_layers(patcher)
    lora = new_lora({name: shapes[name] for name in targeted(shapes, targets)}, rank, 0)
    generator = torch.Generator().manual_seed(8)
    return {key: value + torch.randn(value.shape, generator=generator) * 0.05 for key, value in lora.items()}


def gradients(patcher, found, lora, precision="auto", plan=ANY):
    """Loss and gradients of one step through the backend."""
    with BACKEND.video_training(patcher, [found], lora, plan, precision) as view:
        velocity = view.predict_velocity(found.latent, torch.tensor(SIGMA), 0)
        loss = (velocity - 1).square().mean()
        loss.backward()
        # Nobody reads the text of HunyuanVideo 1.5's last block.
        return loss.item(), {key: p.grad.clone() for key, p in view.parameters.items() if p.grad is not None}


def assembled(patcher, found):
    """The network's input as the papers and the host define it, put together anew: noise, mask, condition."""
    extra = found.conditioning[0][1]
    keep = 1 - extra["concat_mask"]
    seen = patcher.model.process_latent_in(extra["concat_latent_image"].clone())
    order = (keep, seen) if found.family.startswith("Wan") else (seen, keep)
    return torch.cat([found.latent, *order], 1).double()


def reference(patcher, found, lora, monkeypatch):
    """The same step on a float64 copy of the network, LoRA by plain matrices, every block kept."""
    net = copy.deepcopy(patcher.model.diffusion_model).double().requires_grad_(False)
    net.dtype = torch.float64
    parameters = {key: value.double().requires_grad_() for key, value in lora.items()}
    for name, (down, up) in factors(parameters).items():
        layer = net.get_submodule(name)

        def forward(x, layer=layer, down=down, up=up):
            return F.linear(x, layer.weight, layer.bias) + x @ down.T @ up.T

        layer.forward = forward
    in_place = not hasattr(net, "patch_embedding")
    if in_place:
        for norm in (m for m in net.modules() if isinstance(m, torch.nn.LayerNorm) and m.weight is None):
            norm.forward = lambda x, norm=norm: F.layer_norm(x.clone(), norm.normalized_shape, eps=norm.eps)
        for block in (*net.double_blocks, *net.single_blocks):
            block.forward = copying(block.forward)
    else:
        conv = net.patch_embedding
        conv.forward = lambda x: F.conv3d(x.double(), conv.weight, conv.bias, conv.stride)
    monkeypatch.setattr(comfy.model_management, "in_training", True, raising=False)
    # Older hosts and newer ones alike: rotations in the copy's own width.
    monkeypatch.setattr(comfy.ldm.wan.model, "apply_rope1", lambda x, f: rotated(x, f.double()))
    monkeypatch.setattr(comfy.ldm.flux.math, "apply_rope",
                        lambda q, k, f: (rotated(q, f.double()), rotated(k, f.double())))
    text, extra = found.conditioning[0]
    options = {"optimized_attention_override": video.plain_attention}
    given = {"context": text.double(), "transformer_options": options}
    if "pooled_output" in extra:
        given |= {"y": extra["pooled_output"].double(), "guidance": torch.tensor([6.0]).double()}
    if "clip_vision_output" in extra:
        given["clip_fea"] = extra["clip_vision_output"].penultimate_hidden_states.double()
    if "conditioning_byt5small" in extra:
        given["txt_byt5"] = extra["conditioning_byt5small"].double()
    velocity = net(assembled(patcher, found), torch.tensor([SIGMA]) * 1000, **given)
    loss = (velocity - 1).square().mean()
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return loss.item(), {key: value for key, value in zip(parameters, found, strict=True) if value is not None}


def copying(forward):
    return lambda *a, **k: forward(*(t.clone() if torch.is_tensor(t) and t.ndim == 3 else t for t in a),
                                   **{n: t.clone() if torch.is_tensor(t) and t.ndim == 3 else t for n, t in k.items()})


def relative_error(found, expected):
    difference = sum((found[key].double() - expected[key]).square().sum() for key in expected)
    return (difference / sum(value.square().sum() for value in expected.values())).sqrt().item()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_a_plain_float64_copy(kind, monkeypatch):
    patcher, found = model(kind), sample(kind)
    lora = moving_lora(patcher)
    before, marks = weights(patcher), traces(patcher)
    with torch.inference_mode():
        loss, got = gradients(patcher, found, lora)
    assert_untouched(patcher, before, marks)
    assert all(p.grad is None for p in patcher.model.parameters())
    with torch.enable_grad():
        expected_loss, expected = reference(patcher, found, lora, monkeypatch)
    assert loss == pytest.approx(expected_loss, rel=FLOAT32)
    assert got.keys() == expected.keys()
    assert relative_error(got, expected) < NETWORK
    unread = {key for key in lora if key not in got or not got[key].any()}
    assert all(kind == "hunyuan 1.5" and ".double_blocks.1.txt_" in key for key in unread), unread


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_the_same_in_parts_and_with_inputs_in_main_memory(kind, monkeypatch):
    patcher, found = model(kind), sample(kind)
    lora, moved = moving_lora(patcher), []
    with torch.inference_mode():
        _, expected = gradients(patcher, found, lora)
        monkeypatch.setattr(memory, "FEED_FORWARD_TOKENS", 3)
        monkeypatch.setattr(frozen_layers, "NORM_VALUES", 130)
        monkeypatch.setattr(offload, "to_main_memory", lambda x: moved.append(x.shape) or x.clone())
        _, got = gradients(patcher, found, lora, plan=replace(ANY, offloaded=1))
    assert len(moved) == 1 and moved[0][-1] == (128 if "hunyuan" in kind else 64)
    assert relative_error(got, {key: value.double() for key, value in expected.items()}) < FLOAT32


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_the_same_where_blocks_are_not_computed_again(kind, monkeypatch):
    patcher, found, passes = model(kind), sample(kind), []
    lora, count = moving_lora(patcher), len(video_network.network_of(patcher).blocks)
    again = video_blocks.Pass.__setattr__
    monkeypatch.setattr(video_blocks.Pass, "__setattr__", lambda p, n, v: passes.append(v) or again(p, n, v))
    found_at = {}
    with torch.inference_mode():
        for whole in (0, 1, count):
            passes.clear()
            found_at[whole] = gradients(patcher, found, lora, plan=replace(ANY, whole=whole))[1]
            assert sum(passes) == count - whole
    for whole in (1, count):
        assert found_at[whole].keys() == found_at[0].keys()
        assert all(value.equal(found_at[0][key]) for key, value in found_at[whole].items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_stored_weights_may_be_narrow(dtype):
    """The stored width changes the weights, not the road: gradients are those of the rounded weights."""
    found, lora = sample("plain"), moving_lora(model("plain"))
    narrow, rounded = (stored_in(model("plain"), dtype, back) for back in (None, torch.float32))
    with torch.inference_mode():
        loss, got = gradients(narrow, found, lora)
        expected_loss, expected = gradients(rounded, found, lora)
    assert loss == pytest.approx(expected_loss, rel=NETWORK)
    assert relative_error(got, {key: value.double() for key, value in expected.items()}) < RUN


def stored_in(patcher, dtype, back):
    """A MODEL of its own whose matrices are stored in ``dtype``, and brought back to another width."""
    from videos import filled, wan_base

    with torch.inference_mode():
        own = filled(wan_base(image=False), seed=4)
        for layer in video_network.network_of(own).layers.values():
            layer.weight = torch.nn.Parameter(layer.weight.to(dtype).to(back or dtype), requires_grad=False)
    return own


def test_targets_are_the_papers_or_its_codes():
    wan, hunyuan = (BACKEND.video_layers(model(kind)) for kind in ("wan", "hunyuan"))
    ends = {name.split(".", 2)[2] for name in targeted(wan, "attention and feed-forward")}
    attention = {f"{a}_attn.{n}" for a in ("self", "cross") for n in "qkvo"}
    assert ends == attention | {"ffn.0", "ffn.2"}
    assert {name.split(".", 2)[2] for name in targeted(wan, "attention only")} == attention
    both = targeted(hunyuan, "attention and feed-forward")
    assert {name.split(".", 2)[2] for name in both} == {
        "img_attn.qkv", "img_attn.proj", "txt_attn.qkv", "txt_attn.proj", "img_mlp.0", "img_mlp.2", "txt_mlp.0",
        "txt_mlp.2", "linear1", "linear2",
    }  # fmt: skip
    assert not any("mlp" in name or "mod" in name for name in targeted(hunyuan, "attention only"))


def test_a_lora_below_is_part_of_the_base():
    """Training goes on top of what other LoRA loaders have put on the MODEL."""
    patcher, found = model("plain"), sample("plain")
    below = moving_lora(patcher)
    lora = {key: torch.zeros_like(value) if "lora_B" in key else value for key, value in moving_lora(patcher).items()}
    with torch.inference_mode():
        merged = BACKEND.add_video_lora(patcher, below)
        with BACKEND.video_training(merged, [found], lora, ANY, "auto") as view:
            on_top = view.predict_velocity(found.latent, torch.tensor(SIGMA), 0).detach()
        with BACKEND.video_training(patcher, [found], below, ANY, "auto") as view:
            alone = view.predict_velocity(found.latent, torch.tensor(SIGMA), 0).detach()
    assert torch.allclose(on_top, alone, atol=FLOAT32)


def test_models_without_a_mask_are_refused_by_name():
    import comfy.supported_models
    import narrow_flow
    from toys import model as unet
    from videos import filled, hunyuan15_base, hunyuan_base, wan_base

    plain = comfy.supported_models.HunyuanVideo
    cases = {
        "36 channels": filled(wan_base(image=False, in_dim=16), 1),
        "v2": filled(hunyuan_base(plain, channels=16), 1),
        "SD15|BaseModel": unet(),
        "HunyuanVideoSkyreelsI2V reads a picture": filled(hunyuan_base(
            comfy.supported_models.HunyuanVideoSkyreelsI2V, channels=32), 1),
        "HunyuanVideo15_SR_Distilled makes a finished clip larger": filled(hunyuan15_base(
            comfy.supported_models.HunyuanVideo15_SR_Distilled, channels=98), 1),
        "LTXV holds frames among its own latents": narrow_flow.ltxv(),
    }
    for words, patcher in cases.items():
        with pytest.raises(TypeError, match=words) as told:
            BACKEND.video_family(patcher)
        assert str(told.value).startswith("model: ")

    class GGMLLinear(torch.nn.Linear):
        pass

    quantised = model("plain")
    quantised.model.diffusion_model.extra = GGMLLinear(2, 2)
    try:
        with pytest.raises(TypeError, match="GGUF"):
            BACKEND.video_family(quantised)
    finally:
        del quantised.model.diffusion_model.extra
