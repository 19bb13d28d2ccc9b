"""Test-time adaptation of editors that read reference latents, on the host's own FLUX and Qwen-Image."""

from __future__ import annotations

import comfy.ldm.flux.math
import comfy.ldm.qwen_image.model
import comfy.model_management
import comfy.sd
import narrow_editors
import narrow_flow
import pytest
import torch
from narrow_editors import FluxText
from narrow_flow import TEXT
from steadyedit.backends.comfy_native import video_blocks
from steadyedit.methods.lora import factors, new_lora
from steadyedit.methods.tuning import TuneRecipe
from steadyedit.methods.via.adapt import AdaptRecipe, adapt
from steadyedit.nodes.adaptation import TestTimeAdapt as Adapt
from steadyedit.nodes.editor_conditioning import SIZES, EditorConditioning
from steadyedit.standalone.rehearsal import layout_image
from steadyedit.standalone.rehearsal import weights as rehearsal
from tolerances import NETWORK, RUN
from toys import BACKEND, Quiet, assert_untouched, traces, weights

RECIPE = AdaptRecipe(TuneRecipe(steps=4, learning_rate=1e-2, queries=False), rank=4, batch=2, variants=3)
KINDS = {"flux": (narrow_flow.flux, (2, 16, 4, 6)), "qwen": (narrow_flow.qwen, (2, 16, 1, 4, 6))}


def image(seed):
    return torch.rand(1, 32, 48, 3, generator=torch.Generator().manual_seed(seed))


class Averages:
    """A VAE of 16 averages a cell."""

    latent_channels = 16

    def __init__(self, video):
        self.latent_dim = 3 if video else 2

    def encode(self, pixels):
        small = torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 8).repeat(1, 6, 1, 1)[:, :16] * 2 - 1
        return small[:, :, None] if self.latent_dim == 3 else small


def parts(kind):
    clip = narrow_editors.qwen_clip() if kind == "qwen" else FluxText()
    return KINDS[kind][0](), clip, Averages(kind == "qwen")


def prompts(clip, vae):
    with torch.inference_mode():
        return EditorConditioning.execute(clip, vae, image(7), "make it red", "", SIZES[0]).args[:2]


def started(patcher):
    lora = new_lora(BACKEND.projections(patcher), 3, 0)
    generator = torch.Generator().manual_seed(7)
    return {key: value + 0.05 * torch.randn(value.shape, generator=generator) for key, value in sorted(lora.items())}


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_are_those_of_the_merged_weights(kind, monkeypatch):
    """A noise level, a text and two references for each of two rows; W + B A put into the network as it is."""
    made, shape = KINDS[kind]
    patcher, generator = made(), torch.Generator().manual_seed(3)
    draw = lambda *size: torch.randn(size, generator=generator)  # noqa: E731
    noisy, target, sigma = draw(*shape), draw(*shape), torch.tensor([0.3, 0.8])
    text, pooled, references = draw(2, 5, TEXT), draw(2, 16), [draw(*shape), draw(1, *shape[1:])]
    extra = {"pooled_output": pooled, "reference_latents": references}
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]])
    if kind == "qwen":
        extra["attention_mask"] = mask
    lora = started(patcher)
    before, marks = weights(patcher), traces(patcher)
    with BACKEND.picture_training(patcher, lora) as view:
        loss = (view.predict_velocity(noisy, sigma, [[text, extra]]) - target).square().mean()
        loss.backward()
        found = {key: None if p.grad is None else p.grad.clone() for key, p in view.parameters.items()}
    assert_untouched(patcher, before, marks)

    # Independently: plain autograd through the same class with the difference in its weights.
    monkeypatch.setattr(comfy.model_management, "in_training", True, raising=False)
    if not hasattr(comfy.ldm.flux.math, "_apply_rope1"):
        both = lambda q, k, f: (video_blocks.rotated(q, f), video_blocks.rotated(k, f))  # noqa: E731
        monkeypatch.setattr(comfy.ldm.flux.math, "apply_rope", both)
        monkeypatch.setattr(comfy.ldm.qwen_image.model, "apply_rope1", video_blocks.rotated)
    leaves = {key: value.clone().requires_grad_() for key, value in lora.items()}
    network = patcher.model.diffusion_model
    merged = {f"{name}.weight": network.get_submodule(name).weight.detach() + up @ down
              for name, (down, up) in factors(leaves).items()}  # fmt: skip
    given = [patcher.model.process_latent_in(r).expand(2, *shape[1:]) for r in references]
    arguments = ((noisy, sigma, text, mask, given) if kind == "qwen" else
                 (noisy, sigma, text, pooled, torch.full((1,), 3.5), given))  # fmt: skip
    # FLUX's blocks change what their norms have kept.
    hooks = [layer.register_forward_pre_hook(lambda _, x: (x[0].clone(),)) for layer in network.modules()
             if isinstance(layer, torch.nn.LayerNorm)]  # fmt: skip
    expected = (torch.func.functional_call(network, merged, arguments) - target).square().mean()
    expected.backward()
    for hook in hooks:
        hook.remove()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=NETWORK)
    assert found.keys() == leaves.keys()
    for key, gradient in found.items():
        scale = 0 if leaves[key].grad is None else leaves[key].grad.abs().max()
        if not scale:
            # Nobody reads the text of Qwen's last block.
            assert gradient is None or not gradient.any()
            assert "transformer_blocks.1.attn." in key and "add" in key
            continue
        assert (gradient - leaves[key].grad).abs().max() < 10 * NETWORK * scale, key


@pytest.mark.once  # older hosts load FLUX.1 at its true width only
def test_beside_scaled_fp8_weights_it_is_as_beside_what_they_stand_for():
    """As ComfyUI's file of FLUX.1 Kontext has them; they stay as they are."""
    layout = layout_image.flux(1, 1)
    stored = rehearsal.fp8(rehearsal.filled(layout, torch.bfloat16), True)
    scales = {key: value for key, value in stored.items() if key.endswith("scale_weight")}
    plain = {key: value.float() * scales.get(f"{key.removesuffix('weight')}scale_weight", 1)
             for key, value in stored.items() if key in layout}  # fmt: skip
    generator = torch.Generator().manual_seed(3)
    noisy, words = torch.randn(1, 16, 4, 6, generator=generator), torch.randn(1, 5, 4096, generator=generator)
    pooled = torch.randn(1, 768, generator=generator)
    prompt = [[words, {"pooled_output": pooled, "reference_latents": [noisy.flip(-1)]}]]
    found, lora = [], None
    for state in (stored, plain):
        with torch.inference_mode():
            patcher = comfy.sd.load_diffusion_model_state_dict(dict(state), model_options={"dtype": torch.float32}
                                                               if state is plain else {})
        lora = lora or started(patcher)
        weight = patcher.model.diffusion_model.double_blocks[0].img_attn.qkv.weight
        before = getattr(weight, "_qdata", weight).clone()
        assert before.itemsize == (1 if state is stored else 4)
        with BACKEND.picture_training(patcher, lora) as view:
            velocity = view.predict_velocity(noisy, torch.tensor(0.5), prompt)
            velocity.square().mean().backward()
            found.append({"v": velocity.detach(), **{key: p.grad.clone() for key, p in view.parameters.items()
                                                     if p.grad is not None}})
        weight = patcher.model.diffusion_model.double_blocks[0].img_attn.qkv.weight
        assert torch.equal(getattr(weight, "_qdata", weight), before)
    ours, expected = found
    assert ours.keys() == expected.keys() and len(ours) > 10
    for key, value in expected.items():
        assert (ours[key] - value).abs().max() < 10 * NETWORK * value.abs().max(), key


@pytest.mark.parametrize("kind", KINDS)
def test_an_adaptation_learns_its_pair_and_the_model_stays(kind):
    model, clip, vae = parts(kind)
    before, marks = weights(model), traces(model)
    recipe = AdaptRecipe(TuneRecipe(steps=16, learning_rate=3e-2, queries=False), rank=4, batch=2, variants=3)
    tuned = adapt(BACKEND, model, vae, image(0), image(1), *prompts(clip, vae), recipe, progress=Quiet(),
                  preview_every=0)  # fmt: skip
    assert sum(tuned.losses[-6:]) < 0.9 * sum(tuned.losses[:6])
    assert_untouched(model, before, marks)
    assert sum(bool(value.any()) for value in tuned.weights.tensors.values()) > 0.8 * len(tuned.weights.tensors)
    # As ordinary patches they do what they did in training.
    noisy, sigma = torch.randn(1, *KINDS[kind][1][1:]), torch.tensor(0.5)
    condition = [[torch.randn(1, 4, TEXT), {"pooled_output": torch.randn(1, 16)}]]
    with BACKEND.picture_training(model, tuned.weights.tensors) as view, torch.no_grad():
        beside = view.predict_velocity(noisy, sigma, condition)
    nothing = new_lora(BACKEND.projections(model), 1, 0)
    with BACKEND.picture_training(tuned.model, nothing) as view, torch.no_grad():
        patched = view.predict_velocity(noisy, sigma, condition)
    with BACKEND.picture_training(model, nothing) as view, torch.no_grad():
        plain = view.predict_velocity(noisy, sigma, condition)
    assert (beside - patched).abs().max() < RUN * patched.abs().max() < (patched - plain).abs().max()
    tuned.model.unpatch_model()


def test_the_node_takes_them_and_finds_them_again(weights_folder):
    model, clip, vae = parts("qwen")
    positive, negative = prompts(clip, vae)

    def run():
        with torch.inference_mode():
            settings = (2, 1e-2, 4, 2, 3, 0.5, 0, True)
            return Adapt.execute(model, positive, negative, vae, image(0), image(1), *settings).args

    first, again = run(), run()
    assert first[2]["loss"] == again[2]["loss"]
    assert all(torch.equal(first[1][key], again[1][key]) for key in first[1])


def test_bad_input_is_told():
    model, clip, vae = parts("flux")
    positive, negative = prompts(clip, vae)
    with pytest.raises(ValueError, match="positive: shows this editor no picture that can be exchanged"):
        adapt(BACKEND, model, vae, image(0), image(1), narrow_flow.text(1), negative, RECIPE)
    with pytest.raises(ValueError, match="negative: holds 2 conditions, but an adaptation learns one"):
        adapt(BACKEND, model, vae, image(0), image(1), positive, [*negative, *negative], RECIPE)
    changed = [[torch.zeros_like(text), extra] for text, extra in negative]
    with pytest.raises(ValueError, match="negative: a node behind Editor Conditioning changed its text"):
        adapt(BACKEND, model, vae, image(0), image(1), positive, changed, RECIPE, progress=Quiet())
    with pytest.raises(TypeError, match="model: this needs a U-Net of .* but got a WanModel"):
        adapt(BACKEND, narrow_flow.wan(), vae, image(0), image(1), positive, negative, RECIPE)
