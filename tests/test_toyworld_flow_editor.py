"""The flow-matching editor without a host: its names, its pairs, where its training starts, and its sampler."""

from __future__ import annotations

import pytest
import torch
from steadyedit.toyworld import models
from steadyedit.toyworld.models import flow_editor
from steadyedit.toyworld.training.judging import flow
from steadyedit.toyworld.training.judging.instructions import psnr_where
from steadyedit.toyworld.training.recipes import flow_editor as recipe
from steadyedit.toyworld.training.recipes import flow_pairs
from steadyedit.toyworld.training.recipes.flow_start import give_back_the_source
from steadyedit.toyworld.world.edits import KINDS, apply_edit, edits_of
from steadyedit.toyworld.world.rendering import render_still
from steadyedit.toyworld.world.scene import sample_scene


@pytest.fixture(scope="module")
def start():
    torch.manual_seed(0)
    network = flow_editor.build()
    give_back_the_source(network)
    return network.eval()


def test_the_names_are_flux_s(start):
    state = start.state_dict()
    native = flow_editor.to_flux(state)
    assert {"img_in.weight", "double_blocks.0.img_attn.norm.key_norm.scale", "single_blocks.4.linear1.bias",
            "vector_in.out_layer.weight", "final_layer.adaLN_modulation.1.weight"} <= native.keys()
    assert native["double_blocks.0.txt_attn.qkv.weight"].shape == (480, 160)
    back = flow_editor.to_diffusers(native)
    assert back.keys() == state.keys() and all(back[key].equal(value) for key, value in state.items())


def test_patches_are_put_together_again():
    latents = torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    tokens = flow_editor.patches(latents)
    assert tokens.shape == (2, 12, 16) and flow_editor.unpatched(tokens, 6, 8).equal(latents)
    assert tokens[1, 4 + 3].view(4, 2, 2).equal(latents[1, :, 2:4, 6:8]), "row by row; channels before places"
    places = flow_editor.positions(6, 8)
    assert places[7].tolist() == [0, 1, 3] and places[12 + 7].tolist() == [1, 1, 3]


@pytest.mark.parametrize("index", range(8))
def test_every_pair_is_an_edit_and_its_answer(index):
    scenes, pairs = flow_pairs.family(next(i for i in range(index, 999, 8) if flow_pairs.family(i)[0]))
    assert pairs and {(0, i) for i in range(1, len(scenes))} <= {pair[:2] for pair in pairs}
    for source, answer, instruction in pairs:
        assert scenes[answer] in [apply_edit(scenes[source], edit) for edit in edits_of(scenes[source])
                                  if edit.instruction == instruction]


def test_instructions_fit_and_their_ends_are_found():
    class Echo:
        def __call__(self, ids):
            return type("Out", (), {"last_hidden_state": ids[..., None].float()})

    ids = models.tokenize(["", "replace the background with a photo of an astronaut"])
    text, pooled = flow_editor.embed_text(Echo(), ids)
    assert text.shape == (2, flow_editor.TOKENS, 1) and text[1, -1] == models.EOS == pooled[1]
    longest = max(int((models.tokenize([edit.instruction])[0] != models.EOS).sum())
                  for seed in range(12) for edit in edits_of(sample_scene(seed, "train"), photos=True))
    assert longest < flow_editor.TOKENS


def test_training_starts_at_a_network_that_gives_the_source_back(start):
    generator = torch.Generator().manual_seed(1)
    source, noise, text, pooled = (torch.randn(shape, generator=generator)
                                   for shape in [(2, 4, 16, 16)] * 2 + [(2, 16, 96), (2, 96)])
    answer = torch.randn(source.shape, generator=generator)
    for sigma in (0.1, 0.5, 0.8):
        noisy = (1 - sigma) * answer + sigma * noise
        with torch.no_grad():
            v = flow_editor.velocity(start, noisy, source, torch.full((2,), sigma), text, pooled)
        found = noisy - sigma * v
        assert (found - source).square().mean() < 0.1 * (answer - source).square().mean()


@pytest.mark.skipif(not models.weights_path("vae").is_file(), reason="the toy autoencoder is not trained")
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_the_untrained_editor_gives_the_picture_back(start, guidance):
    pictures = torch.stack([torch.from_numpy(render_still(sample_scene(seed, "test", style="none"), 0))
                            for seed in (1, 2)]).float() / 255
    parts = models.load_vae(), start, models.load_editor_text_encoder()
    found = flow.follow(pictures, ["make the ball blue"] * 2, 6, guidance, parts=parts)
    assert found.shape == pictures.shape
    assert psnr_where(found, pictures, torch.ones(pictures.shape[:3])).min() > 20


def test_a_few_steps_lower_the_loss_and_every_weight_can_learn():
    torch.manual_seed(0)
    network = flow_editor.build(num_single_layers=1)
    give_back_the_source(network)
    generator = torch.Generator().manual_seed(2)
    batch = [torch.randn(shape, generator=generator) for shape in [(4, 4, 8, 8)] * 2 + [(4, 16, 96), (4, 96)]]
    optimiser = torch.optim.Adam(network.parameters(), 3e-4)
    losses = []
    for _ in range(4):
        loss = recipe.loss_of(network, *batch, torch.Generator().manual_seed(3))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(parameter.grad.abs().max() > 0 for parameter in network.parameters())


def test_an_instruction_tells_its_kind():
    edits = {edit for seed in range(20) for edit in edits_of(sample_scene(seed, "train"))}
    assert {edit.kind for edit in edits} == set(KINDS)
    assert all(flow_pairs.kind_of(edit.instruction) == edit.kind for edit in edits)


def test_kinds_are_drawn_by_their_shares(monkeypatch):
    """However many pairs there are of each; and the instruction is that of the pictures."""
    words = {"turn the ball into a star": 90, "make the ball dotted": 9, "at sunset": 1}
    told = [word for word, count in words.items() for _ in range(count)]

    def chunk(_, number):
        assert number == 7
        levels = torch.arange(100.0)[:, None, None, None].expand(-1, 4, 16, 16)
        return {"latents": levels.half(), "rows": torch.arange(100)[:, None].expand(-1, 2), "words": told}

    monkeypatch.setattr(recipe, "pairs_chunk", chunk)
    pairs = recipe.Pairs([7])
    pairs.grow()
    shares = {"shape": 0.25, "texture": 0.25, "style": 0.5}
    source, answer, text, _ = pairs.draw(1000, torch.Generator().manual_seed(0), shares)
    assert source.equal(answer)
    picked = source[:, 0, 0, 0].long().tolist()
    for kind, share in shares.items():
        assert sum(flow_pairs.kind_of(told[i]) == kind for i in picked) == pytest.approx(1000 * share, abs=60)
    said = torch.stack([pairs.text[pairs.words[i]] for i in picked])
    silent = torch.tensor([not row.equal(own) for row, own in zip(text, said)])
    assert silent.float().mean() == pytest.approx(recipe.DROP, abs=0.03)
    assert all(row.equal(pairs.text[0]) for row in text[silent])
    found = pairs.draw(1000, torch.Generator().manual_seed(0))[0]
    assert (found[:, 0, 0, 0] < 90).float().mean() == pytest.approx(0.9, abs=0.04)


@pytest.mark.skipif(not models.weights_path("flow_editor").exists(), reason="the toy flow editor is not trained yet")
def test_the_shipped_network_keeps_its_bars():
    """90 % of the instructions followed and at most 3 dB lost outside; a few of the stills are looked at anew."""
    told = models.config_of("flow_editor")["bars"]["text_guidance_2.5"]
    assert told["right"] >= 0.9 and told["lost_outside"] <= 3
    stills = flow.edit_stills(20)
    found = flow.judge(stills, flow.follow(stills.source, [edit.instruction for _, edit in stills.pairs], 8, 2.5))
    assert found["right"] >= 0.8 and found["lost_outside"] <= 4
