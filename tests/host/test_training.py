"""The road that trains: same gradients as a plain float64 copy, and no trace on the MODEL afterwards."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from steadyedit.backends.comfy_native import training
from steadyedit.methods.attachment import module_parameters
from steadyedit.methods.registry import build
from tolerances import FLOAT32, NETWORK, RUN
from toys import (
    BACKEND,
    FRAMES,
    METHODS,
    SIDE,
    assert_untouched,
    clip,
    diffusers_unet,
    model,
    moved,
    text,
    traces,
    weights,
)  # fmt: skip

PAIRS = [("stam", "ffam"), ("temporal-attention", "sparse-causal"), ("simda",)]


def owned(patcher, *methods):
    """Attachments whose modules the test owns and trains."""
    found = [moved(build(m, BACKEND.sites(patcher), METHODS[m]), 0.05) for m in methods]
    return found


def gradients(patcher, attachments, dtype=torch.float32, checkpointing=False, timestep=400):
    """Loss and gradients of one step."""
    noisy, target = clip(seed=6), clip(seed=7)
    with BACKEND.training(patcher, attachments, text(), FRAMES, checkpointing=checkpointing) as view:
        for parameter in view.parameters.values():
            parameter.grad = None
        prediction = view.predict_noise(noisy, torch.tensor(timestep))
        loss = (prediction.to(dtype) - target.to(dtype)).square().mean()
        loss.backward()
        return loss.item(), {key: p.grad.clone() for key, p in view.parameters.items()}


def reference(attachments, timestep=400):
    """The same step on a plain float64 copy of the diffusers U-Net, with the deltas as ordinary weights."""
    from steadyedit.backends.diffusers.patching import Batch, attached
    from steadyedit.backends.diffusers.paths import locate

    unet = copy.deepcopy(diffusers_unet()).double()
    attachments = [copy_of(a) for a in attachments]
    parameters = module_parameters(attachments)
    for block in locate(unet):
        for attachment in attachments:
            if block.site.path in attachment.sites:
                for name in attachment.queries:
                    weight = block.block.get_submodule(name).weight.requires_grad_(True)
                    parameters[f"queries.{block.site.path}.{name}.weight"] = weight
    context = text()[0][0].double().expand(FRAMES, -1, -1)
    with attached(unet, attachments, {}, Batch(1, FRAMES)):
        prediction = unet(clip(seed=6).double(), torch.tensor(timestep), context).sample
    loss = (prediction - clip(seed=7).double()).square().mean()
    found = torch.autograd.grad(loss, list(parameters.values()))
    return loss.item(), dict(zip(parameters, found, strict=True))


def copy_of(attachment):
    wide = {name: copy.deepcopy(tree).double() for name in ("modules", "norms", "outputs")
            if (tree := getattr(attachment, name)) is not None}  # fmt: skip
    return replace(attachment, **wide)


def relative_error(found: dict, expected: dict) -> float:
    difference = sum((found[k].double() - expected[k]).square().sum() for k in expected)
    return (difference / sum(e.square().sum() for e in expected.values())).sqrt().item()


@pytest.mark.parametrize("methods", PAIRS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_a_plain_copy(methods, checkpointing):
    patcher = model()
    attachments = owned(patcher, *methods)
    expected_loss, expected = reference(attachments)
    with torch.inference_mode():
        loss, found = gradients(patcher, attachments, checkpointing=checkpointing)
    assert loss == pytest.approx(expected_loss, rel=NETWORK)
    assert found.keys() == expected.keys()
    assert relative_error(found, expected) < 2 * NETWORK


@pytest.mark.parametrize("methods", PAIRS)
def test_opening_and_training_leaves_no_trace(methods):
    patcher = model()
    before, marks, flags = weights(patcher), traces(patcher), patcher.model.manual_cast_dtype
    attachments = owned(patcher, *methods)
    with torch.inference_mode():
        gradients(patcher, attachments)
    assert_untouched(patcher, before, marks)
    assert patcher.model.manual_cast_dtype == flags
    assert BACKEND.attachments(patcher) == ()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_stored_weights_may_be_narrow(dtype):
    """The stored width changes the weights, not the road: gradients are those of the rounded weights."""
    patcher = reloaded(dtype)
    attachments = owned(patcher, "stam", "ffam")
    rounded = reloaded(dtype, back=torch.float32)
    with torch.inference_mode():
        loss, found = gradients(patcher, attachments)
        expected_loss, expected = gradients(rounded, attachments)
    assert loss == pytest.approx(expected_loss, rel=NETWORK)
    assert relative_error(found, {k: v.double() for k, v in expected.items()}) < RUN
    assert patcher.model.diffusion_model.input_blocks[1][1].transformer_blocks[0].ff.net[2].weight.dtype == dtype


def reloaded(dtype, back=None):
    """A MODEL of its own, with weights stored in ``dtype``; ``back`` widens them again."""
    from steadyedit.backends.comfy_native import toy

    # Loaded as in a node run, so that the weights are inference tensors.
    with torch.inference_mode():
        patcher = toy.unet_from(diffusers_unet().state_dict())
        for parameter in patcher.model.diffusion_model.parameters():
            parameter.data = parameter.data.to(dtype)
            if back is not None:
                parameter.data = parameter.data.to(back)
        patcher.model.diffusion_model.dtype = dtype if back is None else back
        if back is None:
            patcher.model.manual_cast_dtype = torch.float32
    return patcher


def test_weights_may_be_inference_tensors():
    patcher = reloaded(torch.float32, back=torch.float32)
    with torch.inference_mode():
        for module in patcher.model.diffusion_model.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, torch.nn.Parameter(parameter.detach().clone(), requires_grad=False))
        assert next(patcher.model.diffusion_model.parameters()).is_inference()
        attachments = owned_outside(patcher)
        loss, found = gradients(patcher, attachments)
        expected_loss, expected = gradients(model(), attachments)
    assert loss == pytest.approx(expected_loss, rel=FLOAT32)
    assert relative_error(found, {k: v.double() for k, v in expected.items()}) < FLOAT32


def owned_outside(patcher):
    with torch.inference_mode(False):
        return owned(patcher, "stam", "ffam")


def test_lora_patches_take_part():
    """Trained with a LoRA below, gradients are those of the merged weights."""
    torch.manual_seed(5)
    lora = {
        "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight": torch.randn(64, 64) * 0.5,
        "diffusion_model.input_blocks.1.1.transformer_blocks.0.ff.net.2.weight": torch.randn(64, 256) * 0.5,
    }
    patched = model()
    assert len(patched.add_patches({key: ("diff", (value,)) for key, value in lora.items()})) == 2
    merged = reloaded(torch.float32, back=torch.float32)
    state = merged.model.state_dict()
    with torch.no_grad():
        for key, value in lora.items():
            state[key].add_(value)
    attachments = owned(patched, "stam", "ffam")
    with torch.inference_mode():
        loss, found = gradients(patched, attachments)
        plain_loss, _ = gradients(model(), attachments)
        expected_loss, expected = gradients(merged, attachments)
    assert loss == pytest.approx(expected_loss, rel=NETWORK)
    assert abs(plain_loss - loss) > 1e-4
    assert relative_error(found, {k: v.double() for k, v in expected.items()}) < RUN


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_inside_leaves_no_trace(error):
    import comfy.model_management

    patcher = model()
    before, marks = weights(patcher), traces(patcher)
    attachments = owned(patcher, "stam", "ffam")
    with pytest.raises(error):
        with BACKEND.training(patcher, attachments, text(), FRAMES) as view:
            view.predict_noise(clip(), torch.tensor(10)).sum().backward()
            raise error
    assert_untouched(patcher, before, marks)
    assert not getattr(comfy.model_management, "in_training", False)


def test_a_foreign_forward_stays_where_it_was():
    patcher = model()
    block = patcher.model.diffusion_model.input_blocks[1][1].transformer_blocks[0]
    calls, original = [], block.forward

    def foreign(*args, **kwargs):
        calls.append(1)
        return original(*args, **kwargs)

    block.forward = foreign
    try:
        gradients(patcher, owned(patcher, "stam", "ffam"))
        assert block.__dict__["forward"] is foreign
        assert calls
    finally:
        del block.forward


def test_conditions_must_fit_the_frames():
    patcher = model()
    with pytest.raises(ValueError, match="holds 2 prompts, but the clip has 3 frames"):
        with BACKEND.training(patcher, owned(patcher, "stam"), text(prompts=2), FRAMES):
            raise AssertionError("opened")


def test_attentions_without_backward_are_not_used(monkeypatch):
    """Whatever attention the host chose, training runs PyTorch's."""

    def refuses(func, *args, **kwargs):
        raise AssertionError("an attention that has no backward")

    patcher = model()
    patcher.model_options["transformer_options"]["optimized_attention_override"] = refuses
    gradients(patcher, owned(patcher, "stam"))
    with pytest.raises(AssertionError, match="no backward"):
        from toys import sample

        sample(patcher, steps=1)


def test_plain_attention_is_softmax_attention():
    q, k, v = (torch.randn(2, n, 12, dtype=torch.float64) for n in (5, 7, 7))
    heads = 3
    split = [t.unflatten(-1, (heads, 4)).transpose(1, 2) for t in (q, k, v)]
    expected = ((split[0] @ split[1].mT / 2).softmax(-1) @ split[2]).transpose(1, 2).flatten(2)
    assert torch.allclose(training.plain_attention(None, q, k, v, heads), expected)
    assert torch.allclose(training.plain_attention(None, *split, heads, skip_reshape=True), expected)


def test_side_of_the_latent_may_be_anything_that_the_unet_takes():
    patcher = model()
    with BACKEND.training(patcher, owned(patcher, "stam", "ffam"), text(), 1) as view:
        loss = view.predict_noise(torch.randn(1, 4, SIDE, SIDE + 4), torch.tensor(0)).square().mean()
        loss.backward()
        assert torch.isfinite(loss)


def narrow_sd15(path, scaled=True):
    """Stable Diffusion 1.5's U-Net by its file's names, a tenth as wide, its matrices in scaled fp8 or all float32."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from safetensors.torch import save_file

    network = UNetModel(
        image_size=32, in_channels=4, out_channels=4, num_res_blocks=[2] * 4, channel_mult=[1, 2, 4, 4],
        model_channels=32, num_heads=8, use_spatial_transformer=True, transformer_depth=[1] * 6 + [0] * 2,
        transformer_depth_middle=1, transformer_depth_output=[1] * 9 + [0] * 3, context_dim=768, legacy=False,
        use_checkpoint=False, operations=comfy.ops.manual_cast)  # fmt: skip
    generator, state = torch.Generator().manual_seed(3), {}
    for key, value in network.state_dict().items():
        fan = max(value.shape[1:].numel(), 1)
        state[key] = torch.randn(value.shape, generator=generator) * fan**-0.5 if value.ndim > 1 else torch.ones(
            value.shape) * key.endswith("weight")  # fmt: skip
        if scaled and value.ndim == 2 and "attn" in key:
            scale = state[key].abs().max() / 448
            state[key.removesuffix("weight") + "scale_weight"] = scale
            state[key] = (state[key] / scale).to(torch.float8_e4m3fn)
    if scaled:
        state["scaled_fp8"] = torch.empty(0, dtype=torch.float8_e4m3fn)
    save_file(state, path)


def test_a_unet_in_scaled_fp8_is_tuned_and_samples_at_once(tmp_path, monkeypatch):
    """The host's quantised weights take the tuning's patches after a training, as they do without one."""
    import comfy.sd
    import comfy.supported_models
    from steadyedit.methods.tuning import TuneRecipe, tune
    from toys import Quiet, sample

    monkeypatch.setitem(comfy.supported_models.SD15.unet_config, "model_channels", 32)
    narrow_sd15(tmp_path / "unet.safetensors")
    words = [[torch.randn(1, 77, 768, generator=torch.Generator().manual_seed(1)), {}]]
    with torch.inference_mode():
        patcher = comfy.sd.load_diffusion_model(str(tmp_path / "unet.safetensors"))
        attached = BACKEND.attach(patcher, build("ffam", BACKEND.sites(patcher), {"ratio": 1}))
        tuned = tune(BACKEND, attached, clip(2), words, TuneRecipe(steps=1, learning_rate=1e-2), progress=Quiet())
        edited = sample(tuned.model, samples=clip(2), positive=words, negative=words, steps=1)
        plain = sample(patcher, samples=clip(2), positive=words, negative=words, steps=1)
    assert edited.isfinite().all() and not torch.equal(edited, plain)
