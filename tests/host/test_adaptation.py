"""Adaptation, candidates and the choice of the root, on the host's own MODEL and through its own nodes."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import torch
from shared import shared
from steadyedit import nodes as pack
from steadyedit.backends.comfy_native import clip_models, toy
from steadyedit.backends.diffusers import DiffusersBackend, DiffusersModel
from steadyedit.methods.lora import new_lora
from steadyedit.methods.tuning import TuneRecipe
from steadyedit.methods.via.adapt import AdaptRecipe, adapt
from steadyedit.methods.via.candidates import root_candidates
from steadyedit.toyworld import models
from tolerances import NETWORK, RUN
from toys import BACKEND, WIDTH, Quiet, assert_untouched, model, text, traces, weights

SIZE = 64
RECIPE = AdaptRecipe(TuneRecipe(steps=3, learning_rate=1e-3, queries=False), rank=4, batch=2, variants=3)


class Pooling:
    """A VAE of four averages a cell, and back."""

    def encode(self, pixels):
        cells = torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 8)
        return torch.cat([cells, cells.mean(1, keepdim=True)], 1) * 4 - 2

    def decode(self, samples):
        return torch.nn.functional.interpolate((samples[:, :3] + 2) / 4, scale_factor=8).movedim(1, -1)


@shared
def diffusers_editor():
    torch.manual_seed(0)
    return models.build_unet(8).eval().requires_grad_(False)


@shared
def _shared():
    return toy.unet_from(diffusers_editor().state_dict())


def editor():
    return _shared().clone()


def image(seed: int = 0, size: int = SIZE, count: int = 1):
    return torch.rand(count, size, size, 3, generator=torch.Generator().manual_seed(seed))


def adapted(patcher=None, backend=BACKEND, recipe=RECIPE, **options):
    options = {"progress": Quiet(), "preview_every": 0, **options}
    patcher = editor() if patcher is None else patcher
    return adapt(backend, patcher, Pooling(), image(0), image(1), text(1), text(2), recipe, **options)


def node(name: str):
    return next(n for n in asyncio.run(pack.extension().get_node_list()) if n.define_schema().node_id == name)


def predict(patcher, samples=None):
    """One denoising of the editor through the host's guider."""
    samples = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(4)) if samples is None else samples
    told = [[text(1)[0][0], {"concat_latent_image": samples.flip(0)}]]
    return BACKEND.sample(patcher, told, text(2), 1.0, samples, torch.tensor([2.0, 0.0]), Quiet())


def relative(found, expected) -> float:
    difference = sum((found[k].double() - expected[k].double()).square().sum() for k in expected)
    return (difference / sum(e.double().square().sum() for e in expected.values())).sqrt().item()


def started(backend, patcher, seed: int = 0):
    """A LoRA away from its start, so that both of its matrices have gradients."""
    lora = new_lora(backend.projections(patcher), 4, seed)
    generator = torch.Generator().manual_seed(7)
    return {key: value + 0.02 * torch.randn(value.shape, generator=generator) for key, value in sorted(lora.items())}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_the_diffusers_model(checkpointing):
    """A timestep, a text and an image for every sample."""
    noisy, target, picture = (torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(s)) for s in (6, 7, 8))
    condition = [[text(3, prompts=2)[0][0], {"concat_latent_image": picture}]]
    found = []
    plain = DiffusersModel(diffusers_editor())
    for backend, patcher in ((BACKEND, editor()), (DiffusersBackend(), plain)):
        lora = started(backend, patcher)
        with backend.training(patcher, (), text(1), 2, False, checkpointing, lora) as view:
            error = view.predict_noise(noisy, torch.tensor([40, 900]), condition) - target
            error.square().mean().backward()
            found.append({key: p.grad.clone() for key, p in view.parameters.items()})
    assert found[0].keys() == found[1].keys() == lora.keys()
    assert relative(*found) < 2 * NETWORK


def test_both_hosts_adapt_alike():
    here = adapted()
    there = adapted(DiffusersModel(diffusers_editor()), DiffusersBackend())
    assert here.losses == pytest.approx(there.losses, rel=RUN)
    assert relative(here.weights.tensors, there.weights.tensors) < 0.02


@pytest.mark.parametrize("end", ["finished", "cancelled", "failed"])
def test_the_input_model_is_bit_for_bit_unchanged(end):
    patcher = editor()
    before, marks = weights(patcher), traces(patcher)
    with torch.inference_mode():
        if end == "finished":
            tuned = adapted(patcher)
            predict(tuned.model)
            tuned.model.unpatch_model()
        else:
            error = KeyboardInterrupt if end == "cancelled" else ValueError
            with pytest.raises(error):
                adapted(patcher, progress=Quiet(cancel_after=2, error=error))
    assert_untouched(patcher, before, marks)
    assert not patcher.patches


def test_the_stock_loaders_read_the_lora(tmp_path, monkeypatch):
    """Save LoRA and LoraLoader, and Load LoRA Model, give the MODEL that the adaptation gives."""
    import folder_paths
    from comfy_extras.nodes_train import LoraModelLoader, SaveLoRA

    from nodes import LoraLoader

    tuned = adapted()
    expected, plain = predict(tuned.model), predict(editor())
    assert (expected - plain).abs().max() > 1e-4
    (direct,) = LoraModelLoader.execute(editor(), dict(tuned.weights.tensors), 1.0).result
    assert predict(direct).equal(expected)

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors"}))
    SaveLoRA.execute(dict(tuned.weights.tensors), "adapted")
    (file,) = tmp_path.glob("adapted*.safetensors")
    loaded, _ = LoraLoader().load_lora(editor(), None, file.name, 1.0, 0.0)
    assert predict(loaded).equal(expected)


def test_a_lora_below_stays_and_adds_up():
    lora = started(BACKEND, editor())
    below = BACKEND.add_lora(editor(), lora)
    tuned = adapted(below)
    both = BACKEND.add_lora(BACKEND.add_lora(editor(), lora), tuned.weights.tensors)
    assert predict(tuned.model).equal(predict(both))
    assert tuned.losses != adapted().losses


def test_the_node_gives_model_lora_and_losses():
    from comfy_extras.nodes_train import LossGraphNode

    with torch.inference_mode():
        arguments = {"steps": 2, "learning_rate": 1e-4, "rank": 4, "batch": 1, "variants": 2, "dropout": 0.05,
                     "seed": 0, "reuse": True}  # fmt: skip
        run = node("SteadyEditTestTimeAdapt")
        inputs = (editor(), text(1), text(2), toy.vae_from(toy.toyworld.state_of("vae")), image(0), image(1))
        found, lora, losses = run.execute(*inputs, **arguments).result
        assert all(key.startswith("diffusion_model.") and key.endswith(".weight") for key in lora)
        assert len(losses["loss"]) == 2 and LossGraphNode is not None
        again, same, _ = run.execute(*inputs, **arguments).result
        assert all(same[key].equal(lora[key]) for key in lora)
        assert predict(again).equal(predict(found))


def test_a_candidate_is_what_the_core_nodes_give():
    """RandomNoise, DualCFGGuider, BasicScheduler normal and SamplerCustomAdvanced of the same seed."""
    from comfy_extras.nodes_custom_sampler import (
        BasicScheduler,
        DualCFGGuider,
        KSamplerSelect,
        RandomNoise,
        SamplerCustomAdvanced,
    )  # fmt: skip
    from comfy_extras.nodes_ip2p import InstructPixToPixConditioning

    def result(output):
        return getattr(output, "result", output)

    vae, frame = Pooling(), image(2)
    sampler = result(KSamplerSelect.execute("euler_ancestral"))[0]
    with torch.inference_mode():
        found = root_candidates(BACKEND, editor(), vae, frame, text(1), text(2), [5, 6], steps=3, sampler=sampler,
                                progress=Quiet())  # fmt: skip
        told, silent, latent = result(InstructPixToPixConditioning.execute(text(1), text(2), frame, vae))
        for seed, edit in zip([5, 6], found, strict=True):
            guider = result(DualCFGGuider.execute(editor(), told, silent, text(2), 7.5, 1.5, "regular"))[0]
            sigmas = result(BasicScheduler.execute(editor(), "normal", 3, 1.0))[0]
            noise = result(RandomNoise.execute(seed))[0]
            out, _ = result(SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent))
            expected = vae.decode(out["samples"])
            assert (edit - expected).abs().max() < NETWORK * expected.abs().max()


def test_candidates_agree_between_hosts():
    plain = DiffusersModel(diffusers_editor())
    arguments = (Pooling(), image(2), text(1), text(2), [3])
    here = root_candidates(BACKEND, editor(), *arguments, steps=3, progress=Quiet())
    there = root_candidates(DiffusersBackend(), plain, *arguments, steps=3, progress=Quiet())
    assert (here - there).abs().max() < RUN * there.abs().max()


def test_a_model_without_an_image_input_is_refused():
    with pytest.raises(TypeError, match="model: takes no image beside the noise; load an InstructPix2Pix checkpoint"):
        adapted(model())


def test_the_toy_clip_says_the_same_in_both_hosts():
    clip, vision = clip_models.load_toy_clip()
    other, eye = DiffusersBackend().load_toy_clip()
    pictures = image(3, size=48, count=2)
    with torch.inference_mode():
        for said in ("a blue ball on grass", ""):
            here, there = BACKEND.text_embedding(clip, said), DiffusersBackend().text_embedding(other, said)
            assert here.shape == (1, 64) and (here - there).abs().max() < NETWORK * there.abs().max()
        here, there = BACKEND.image_embeddings(vision, pictures), DiffusersBackend().image_embeddings(eye, pictures)
        assert here.shape == (2, 64) and (here - there).abs().max() < RUN * there.abs().max()


def test_a_clip_without_projection_is_refused():
    with pytest.raises(ValueError, match="clip: this text encoder has no projection into the space of images"):
        BACKEND.text_embedding(toy.clip_from(toy.toyworld.state_of("text_encoder")), "a ball")


def test_the_right_candidate_is_picked():
    """Of the true answer, the unchanged frame, and two wrong edits."""
    from steadyedit.toyworld import apply_edit, edits_of, render, sample_scene

    scene = sample_scene(3, "test", frames=1, size=128)
    right, *wrong = [e for e in edits_of(scene) if e.kind == "colour"][:3]
    clip, answer = render(scene), render(apply_edit(scene, right))
    others = [render(apply_edit(scene, edit)).frames for edit in wrong]
    candidates = torch.cat([clip.frames, *others, answer.frames])
    run = node("SteadyEditPickRoot")
    captions = {"source_caption": clip.caption, "edited_caption": answer.caption}
    with torch.inference_mode():
        encoders = dict(zip(("clip", "clip_vision"), clip_models.load_toy_clip(), strict=True))
        for mask in (clip.masks[0], None):
            picked = run.execute(candidates, clip.frames, 0, 0.5, mask=mask, **captions, **encoders).result
            assert picked[2] == 4 and picked[1].equal(answer.frames) and picked[3].count("\n") == 3
        assert run.execute(candidates, clip.frames, 2, 0.5).result[1].equal(candidates[1:2])


def test_one_prompt_a_frame_is_one_row_a_frame():
    clip = toy.clip_from(toy.toyworld.state_of("text_encoder"))
    run = node("SteadyEditPerFrameConditioning")
    with torch.inference_mode():
        ((tokens, extra),) = run.execute(clip, "a red ball\na blue star\na red ball").result[0]
        alone = clip.encode_from_tokens_scheduled(clip.tokenize("a blue star"))[0]
        assert tokens.shape == (3, 77, WIDTH) and tokens[0].equal(tokens[2]) and tokens[1].equal(alone[0][0])
        assert extra["pooled_output"].shape[0] == 3
        with pytest.raises(ValueError, match="text: holds 3 lines, but the clip has 4 frames"):
            run.execute(clip, "a\nb\nc", images=image(count=4))
        # Encoded elsewhere, put together by the core's node, and lines behind them.
        ball, star = (clip.encode_from_tokens_scheduled(clip.tokenize(said)) for said in ("a red ball", "a blue star"))
        ((rows, _),) = run.execute(conditioning=ball + star).result[0]
        assert rows.equal(tokens[:2])
        ((rows, extra),) = run.execute(clip, "a red ball", image(count=6), True, ball + star).result[0]
        assert rows.equal(tokens.repeat_interleave(2, 0)) and extra["pooled_output"].shape[0] == 6
        with pytest.raises(ValueError, match="clip: text needs a text encoder"):
            run.execute(text="a red ball")
        with pytest.raises(ValueError, match="text: holds no prompt; write one line a frame, or connect conditioning"):
            run.execute()


def test_adaptation_lowers_the_loss_of_the_trained_editor():
    """On the pair that it learns: the trained toy editor, a true edit, the same noise before and after."""
    from steadyedit.toyworld import apply_edit, edits_of, render, sample_scene

    scene = sample_scene(5, "test", frames=1, size=128)
    edit = next(e for e in edits_of(scene) if e.kind == "colour")
    source, answer = render(scene).frames, render(apply_edit(scene, edit)).frames
    patcher, clip, vae = toy.load_editor()
    with torch.inference_mode():
        told, silent = (clip.encode_from_tokens_scheduled(clip.tokenize(said)) for said in (edit.instruction, ""))
        recipe = replace(RECIPE, training=replace(RECIPE.training, steps=15, learning_rate=5e-4), batch=2, variants=8)
        tuned = adapt(BACKEND, patcher, vae, source, answer, told, silent, recipe, progress=Quiet(), preview_every=0)
        assert held_out_loss(tuned.model, vae, source, answer, told) < held_out_loss(patcher, vae, source, answer, told)


def held_out_loss(patcher, vae, source, answer, told) -> float:
    """Mean error of the noise on the unwarped pair over timesteps, which the training never saw as they are."""
    schedule, losses = BACKEND.schedule(patcher), []
    clean, picture = BACKEND.to_model_space(patcher, vae.encode(answer)).clone(), vae.encode(source).clone()
    condition = [[told[0][0].clone(), {"concat_latent_image": picture}]]
    with BACKEND.training(patcher, (), condition, 1, False) as view, torch.no_grad():
        for timestep in range(50, 1000, 100):
            noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(timestep))
            noisy = schedule.add_noise(clean, noise, torch.tensor(timestep))
            losses.append((view.predict_noise(noisy, torch.tensor(timestep)) - noise).square().mean().item())
    return sum(losses) / len(losses)
