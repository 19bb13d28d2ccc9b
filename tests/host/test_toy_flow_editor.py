"""The flow-matching editor's weights in the host's own FLUX class, with core's reference latents."""

from __future__ import annotations

import comfy.ldm.flux.model
import comfy.sample
import comfy.samplers
import node_helpers
import pytest
import torch
from steadyedit.backends.comfy_native import toy
from steadyedit.backends.diffusers.encoders import Autoencoder
from steadyedit.backends.diffusers.flow_editor import FlowEditorBackend, FlowEditorModel, FlowTextEncoder
from steadyedit.diffusion.trajectory import FlowPath
from steadyedit.methods.registry import build_on
from steadyedit.methods.via.blend import BoundaryBlend
from steadyedit.methods.via.editor_clip import EditorClip
from steadyedit.nodes.editor_conditioning import EditorConditioning
from steadyedit.toyworld import models
from steadyedit.toyworld.models import flow_editor
from steadyedit.toyworld.training.recipes.flow_start import give_back_the_source
from steadyedit.toyworld.training.recipes.unet import SCALE
from tolerances import NETWORK, RUN
from toys import BACKEND, assert_untouched, traces, weights


@pytest.fixture(scope="module")
def standalone():
    """Random weights about the training's start: no layer at a start that hides it."""
    torch.manual_seed(0)
    network = flow_editor.build()
    give_back_the_source(network)
    for parameter in network.eval().requires_grad_(False).parameters():
        parameter.add_(0.03 * torch.randn(parameter.shape))
    return network


@pytest.fixture(scope="module")
def model(standalone):
    return toy.flow_editor_from(flow_editor.to_flux(standalone.state_dict()))


@pytest.mark.parametrize("size", [(8, 8), (4, 12)])
def test_the_network_agrees_with_the_one_that_trains(standalone, model, size):
    generator = torch.Generator().manual_seed(1)
    z, source = torch.randn(2, 4, *size, generator=generator), torch.randn(2, 4, *size, generator=generator)
    text, pooled = torch.randn(2, 16, 96, generator=generator), torch.randn(2, 96, generator=generator)
    sigma = torch.tensor([0.2, 0.9])
    network = model.model.diffusion_model
    assert type(network) is comfy.ldm.flux.model.Flux
    with torch.no_grad():
        expected = flow_editor.velocity(standalone, z, source, sigma, text, pooled)
        found = network(z.clone(), sigma, text, y=pooled, ref_latents=[source])
    assert expected.std() > 0.1
    assert (found - expected).abs().max() < NETWORK * expected.abs().max()


def test_core_s_sampler_with_reference_latents_is_the_judge_s(standalone, model):
    generator = torch.Generator().manual_seed(2)
    noise, raw = (torch.randn(1, 4, 8, 8, generator=generator) for _ in range(2))
    text, pooled = torch.randn(1, 16, 96, generator=generator), torch.randn(1, 96, generator=generator)
    steps = 4
    u = torch.linspace(1, 0, steps + 1)
    sigmas = flow_editor.SHIFT * u / (1 + (flow_editor.SHIFT - 1) * u)
    conditioning = node_helpers.conditioning_set_values([[text, {"pooled_output": pooled}]],
                                                        {"reference_latents": [raw]}, append=True)
    found = comfy.sample.sample(model, noise, steps, 1.0, "euler", "simple", conditioning, conditioning,
                                torch.zeros_like(noise), sigmas=sigmas, disable_pbar=True, seed=0)
    z = noise
    with torch.no_grad():
        for now, then in zip(sigmas.tolist(), sigmas[1:].tolist()):
            z = z + (then - now) * flow_editor.velocity(
                standalone, z, raw * SCALE, torch.tensor([now]), text, pooled)
    assert (found * SCALE - z).abs().max() < RUN * z.abs().max()


@pytest.fixture(scope="module")
def encoders():
    """CLIP of both hosts, from the same random weights, and their VAEs."""
    torch.manual_seed(1)
    text = models.BUILDERS["editor_text_encoder"]().eval().requires_grad_(False)
    vae = models.build_vae().eval().requires_grad_(False)
    host = toy.clip_from(text.state_dict(), kinds=(toy.ToyFlowTokenizer, toy.ToyFlowTextEncoder))
    return ((host, toy.vae_from(vae.state_dict())),
            (FlowTextEncoder(text, models.tokenize), Autoencoder(vae)))  # fmt: skip


def test_a_clip_is_shown_alike_in_both_hosts(encoders):
    frames = torch.rand(2, 32, 64, 3, generator=torch.Generator().manual_seed(3))
    made = [EditorClip(backend.picture_editor(*pair), ("make the ball blue", ""), own_size).of(frames, lambda: None)
            for own_size in (True, False) for backend, pair in zip((BACKEND, FlowEditorBackend()), encoders)]
    for here, there in (made[:2], made[2:]):
        for (mine,), (yours,) in zip(here.prompts, there.prompts):
            assert mine[0].shape == (1, flow_editor.TOKENS, 96)
            assert (mine[0] - yours[0]).abs().max() < NETWORK
            assert (mine[1]["pooled_output"] - yours[1]["pooled_output"]).abs().max() < NETWORK
            (mine,), (yours,) = (entry[1]["reference_latents"] for entry in (mine, yours))
            assert mine.shape == yours.shape
        assert (here.latents - there.latents).abs().max() < RUN * here.latents.abs().max()


def test_a_second_picture_is_refused(encoders):
    clip, vae = encoders[0]
    with pytest.raises(ValueError, match="picture: the Toy Flow Editor knows one picture only"):
        EditorConditioning.execute(clip, vae, torch.rand(2, 32, 32, 3), "make the ball blue", "", "the frames' own",
                                   torch.rand(1, 32, 32, 3))  # fmt: skip


@pytest.mark.parametrize("own_keys", [False, True])
def test_gather_swap_blend_and_lora_are_those_of_the_command_line(standalone, model, own_keys):
    """Two implementations of the lock-step, the joint attention, the blend and a LoRA on FLUX's fused layers."""
    generator = torch.Generator().manual_seed(4)
    frames, size = 3, (4, 6)
    noise = torch.randn(1, 4, *size, generator=generator).expand(frames, -1, -1, -1)
    clip = torch.randn(frames, 4, *size, generator=generator) / SCALE
    prompts = [[[torch.randn(1, 16, 96, generator=generator),
                 {"pooled_output": torch.randn(1, 96, generator=generator), "reference_latents": [clip]}]]
               for _ in range(2)]
    keep = (torch.rand(1, 1, *size, generator=generator) > 0.5).float()
    sigmas = torch.tensor([1.0, 0.8, 0.5, 0.0])
    ours, there = FlowEditorBackend(), FlowEditorModel(standalone)
    assert ours.projections(there) == BACKEND.projections(model)
    lora = {key: 0.06 * torch.randn(shape, generator=generator) for name, (out, inner) in
            ours.projections(there).items() for key, shape in (
                (f"diffusion_model.{name}.lora_A.weight", (4, inner)),
                (f"diffusion_model.{name}.lora_B.weight", (out, 4)))}  # fmt: skip
    before, marks = weights(model), traces(model)
    results = []
    for backend, patcher in ((ours, there), (BACKEND, model)):
        for changed in (backend.add_lora(patcher, lora), patcher):
            swapped = backend.attach(changed, build_on(backend, changed, "gather-swap", {
                "group": 2, "own_keys": own_keys, "chunk": 2}))  # fmt: skip
            blend = BoundaryBlend(FlowPath(clip), keep)
            if backend is ours:
                progress = type("Silent", (), {"update": lambda *a, **k: None})()
                results.append(ours.sample(swapped, *prompts, 2.0, noise / SCALE, sigmas, progress,
                                           sampler=ours.blend_sampler("euler", blend)))  # fmt: skip
                continue
            guider = comfy.samplers.CFGGuider(swapped)
            guider.set_conds(*prompts)
            guider.set_cfg(2.0)
            with torch.inference_mode():
                results.append(guider.sample(noise, clip.clone(), backend.blend_sampler(
                    comfy.samplers.sampler_object("euler"), blend), sigmas, disable_pbar=True, seed=0))  # fmt: skip
    tuned, plain, host_tuned, host_plain = results
    for mine, yours in ((tuned, host_tuned), (plain, host_plain)):
        assert (mine - yours).abs().max() < RUN * yours.abs().max()
        kept = keep.expand_as(clip) == 1
        assert torch.equal(mine[kept], clip[kept]) and torch.equal(yours[kept], clip[kept])
    assert (tuned - plain).abs().max() > 30 * RUN * plain.abs().max(), "the LoRA must show"
    assert_untouched(model, before, marks)


@pytest.mark.parametrize("host", [0, 1])
def test_an_instruction_that_it_would_not_read_to_its_end_is_refused(encoders, host):
    clip, _ = encoders[host]
    fits = "make the ball blue " * 3 + "make it"
    assert clip.encode_from_tokens_scheduled(clip.tokenize(fits))[0][0].shape[1] == flow_editor.TOKENS
    for text, words in ((f"{fits} blue", 15), (f"{fits} " * 6, 84)):
        said = f"text: comes to {words} words, but the Toy Flow Editor reads 14" if words < 75 or not host else (
            "text: is longer than the 74 words")
        with pytest.raises(ValueError, match=said):
            clip.tokenize(text)
