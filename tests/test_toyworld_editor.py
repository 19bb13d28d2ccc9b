"""The instruction editor: its triples, its loss, its file, and that it edits."""

from __future__ import annotations

import json

import pytest
import torch
from steadyedit.toyworld import apply_edit, models
from steadyedit.toyworld.training.judging.instructions import edit_stills, follow, judge
from steadyedit.toyworld.training.recipes import editor
from steadyedit.toyworld.training.recipes.unet import alphas_cumprod
from steadyedit.toyworld.world.edits import KINDS, Edit
from steadyedit.toyworld.world.grammar import ALL_BACKGROUNDS
from tolerances import CODEC, FLOAT32

trained = pytest.mark.skipif(not models.weights_path("editor").exists(), reason="the editor is not trained")


def test_triples_are_of_all_kinds_and_their_answer_differs():
    found = [editor.edit_of(index) for index in range(60)]
    assert {edit.kind for _, _, edit in found} == set(KINDS)
    assert all(apply_edit(scene, edit) != scene for scene, _, edit in found)
    picture, words = editor.render_answer(0)
    assert picture.shape == (128, 128, 3) and words == found[0][2].instruction


def test_instructions_need_no_byte_fallback():
    tokenizer = models.load_tokenizer()
    edits = [Edit("background", name, "ball") for name in ALL_BACKGROUNDS] + [Edit("texture", "plain", "fish")]
    for words in (edit.instruction for edit in edits):
        assert len(tokenizer(words).input_ids) == len(words.split()) + 2, words


def test_five_in_a_hundred_lose_the_text_the_image_or_both():
    no_text, no_image = editor.dropped(100_000, torch.Generator().manual_seed(0))
    shares = [(no_text & ~no_image), (~no_text & no_image), (no_text & no_image)]
    assert all(abs(share.float().mean() - editor.DROP) < 0.005 for share in shares)


def test_the_image_is_raw_and_a_dropped_one_is_zero():
    seen = []

    def unet(x, t, context):
        seen.append(x)
        return type("Output", (), {"sample": torch.zeros_like(x[:, :4])})

    def encoder(ids):
        return type("Output", (), {"last_hidden_state": None})

    source, answer = torch.randn(2, 4, 16, 16), torch.randn(2, 4, 16, 16)
    drawn = torch.Generator().manual_seed(0)
    loss = editor.loss_of(
        unet, encoder, source, answer, None, torch.tensor([False, True]), alphas_cumprod(), drawn)
    assert seen[0].shape == (2, 8, 16, 16) and loss > 0
    torch.testing.assert_close(seen[0][0, 4:], source[0] / 0.18215)
    assert seen[0][1, 4:].eq(0).all()


def test_the_second_stage_wants_the_answer_from_drifted_latents():
    source, abar = torch.randn(3, 4, 16, 16), alphas_cumprod()
    answer = source.clone()
    answer[:, :, 4:9, 4:9] += 1

    def misses(error):
        def unet(x, t, context):
            a = abar[t][:, None, None, None]
            return type("Output", (), {"sample": (x[:, :4] - a.sqrt() * (answer + error)) / (1 - a).sqrt()})

        return unet

    def encoder(ids):
        return type("Output", (), {"last_hidden_state": None})

    def loss(error):
        drawn, shown = torch.Generator().manual_seed(0), torch.zeros(3, dtype=torch.bool)
        return editor.settle_loss_of(misses(error), encoder, source, answer, None, shown, abar, drawn)

    assert loss(0.0) < FLOAT32 and loss(0.1) > 0.01
    torch.testing.assert_close(loss(0.2), 4 * loss(0.1), rtol=CODEC, atol=0)


def test_drift_is_of_whole_regions_and_grows_with_the_noise():
    answer, generator = torch.zeros(2000, 4, 16, 16), torch.Generator().manual_seed(0)
    for sigma, spread in ((0.0, 0.1), (4.0, 0.3), (14.0, 0.35)):
        d = editor.drift(answer, torch.full((2000,), sigma), generator)
        assert abs(d.mean((2, 3)).std() / spread - 1) < 0.05
        assert (d[..., 1:] - d[..., :-1]).abs().mean() < 0.15 * spread


@trained
def test_the_file_is_an_overlay_of_what_changed():
    record, base = models.config_of("editor"), models.load_unet().state_dict()
    loaded = models.load_editor().state_dict()
    assert record["base"] == "unet" and record["base_sha256"] == models.config_of("unet")["sha256"]
    assert models.weights_path("editor").stat().st_size < 5.1e6
    assert loaded["conv_in.weight"].shape[1] == 8
    frozen = [key for key in loaded if key.startswith(editor.FROZEN)]
    assert len(frozen) > 50 and all(torch.equal(loaded[key], base[key]) for key in frozen)


@trained
def test_another_base_is_refused(tmp_path, monkeypatch):
    for path in models.WEIGHTS.iterdir():
        (tmp_path / path.name).symlink_to(path)
    record = models.config_of("editor") | {"base_sha256": "0" * 64}
    (tmp_path / "editor.json").unlink()
    (tmp_path / "editor.json").write_text(json.dumps(record))
    monkeypatch.setattr(models, "WEIGHTS", tmp_path)
    with pytest.raises(ValueError, match="unet.safetensors is not the file that editor was trained from"):
        models.load_editor()


@trained
def test_it_edits_held_out_stills():
    stills = edit_stills(20)
    result = follow(stills.source, [edit.instruction for _, edit in stills.pairs], steps=10)
    found = judge(stills, result)
    assert found["right"] >= 0.7 and found["lost_outside"] < 5
