"""Presets for cards: what each chooses for Wan 14B, that it fits by its own prediction, and what fits nowhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from steadyedit.methods.lora_edit.choices import MEMORY_PRESETS
from steadyedit.methods.lora_edit.memory import GIB, SPARE, NetworkSize, plan, wan_kept, wan_moments, widened
from steadyedit.methods.lora_edit.presets import fitted, in_words
from steadyedit.methods.lora_edit.train import VideoSettings, train_mask_lora
from test_lora_edit_training import BACKEND, Quiet, recipe, sample, transformer

PAPER = (1, 16, 13, 60, 104)
CARDS = [value for value in MEMORY_PRESETS.values() if value]
# Wan 2.1 I2V 14B in fp8, computed in bfloat16, as tests/host/full_size.py builds it.
BLOCK = 343_000_000
WAN = NetworkSize(
    5120, 13824, 128, 40, wan_moments(40, True), itemsize=2, weights=40 * BLOCK + 250_000_000, block_weights=BLOCK,
    largest_layer=5120 * 13824, context_tokens=512 + 257, stored_itemsize=1, kept=wan_kept(True), alike=40,
)  # fmt: skip
TRAINED = 76_000_000


def chosen(card: int, latent=PAPER, size=WAN, free: int = 80 * GIB):
    return fitted(size, latent, 16, TRAINED, card * GIB, free, "the card")


@pytest.mark.parametrize("card", CARDS)
def test_each_fits_into_its_card(card):
    found = chosen(card)
    assert found.needed <= card * GIB * (1 - SPARE)
    assert found.kept_weights <= WAN.weights and 0 <= found.offloaded < WAN.blocks


def test_larger_cards_move_less():
    plans = [chosen(card) for card in CARDS]
    assert [found.offloaded for found in plans] == sorted((found.offloaded for found in plans), reverse=True)
    # The paper's size: inputs wait in the main memory on small cards alone.
    assert plans[0].offloaded > plans[1].offloaded > 0 == plans[2].offloaded == plans[3].offloaded
    assert plans[2].kept_weights < plans[3].kept_weights < WAN.weights == chosen(48).kept_weights


def test_a_card_that_has_less_counts_for_what_it_has():
    assert chosen(24, free=12 * GIB) == chosen(12)


def test_short_small_clips_need_no_tricks():
    found = chosen(24, (1, 16, 4, 32, 32))
    assert found.offloaded == 0 and found.kept_weights == WAN.weights and found.whole > 1


def test_what_fits_nowhere_is_refused_with_advice():
    with pytest.raises(MemoryError, match="^samples: training on 81 frames of 1280x720 needs .* but the preset of 8 GB "
                                          "has 8.0 GiB; .*cut the clip to .* frames or less"):
        chosen(8, (1, 16, 21, 90, 160))
    with pytest.raises(MemoryError, match="but the card has 4.0 GiB"):
        chosen(8, free=4 * GIB)


def test_blocks_are_not_computed_again_where_there_is_room():
    """As many as fit, and none where weights are streamed or inputs wait elsewhere."""
    for card in (8, 12, 16, 24, 48, 80, 200):
        found = chosen(card, free=200 * GIB)
        assert not found.whole or found.kept_weights == WAN.weights and not found.offloaded
        assert found.needed <= card * GIB * (1 - SPARE)
        more = plan(WAN, PAPER, 16, TRAINED, whole=found.whole + 1).beside_weights
        assert found.whole == 40 or found.offloaded or found.kept_weights < WAN.weights or (
            more + WAN.weights > card * GIB * (1 - SPARE))  # fmt: skip
    wholes = [chosen(card, free=200 * GIB).whole for card in (24, 48, 80, 200)]
    assert wholes[0] == 0 < wholes[1] < wholes[2] < wholes[3] == 40
    assert "40 of 40 blocks not computed again" in in_words(chosen(200, free=200 * GIB), WAN, 200 * GIB)
    # Backward begins with the last block, which keeps what it needs in any case, but for the inner values.
    alone, first = (plan(WAN, PAPER, 16, TRAINED, whole=whole).needed for whole in (0, 1))
    assert alone < first <= alone + WAN.tokens(PAPER) * WAN.inner * 2
    streamed = plan(WAN, PAPER, 16, TRAINED, offloaded=3)
    assert widened(streamed, WAN, PAPER, 16, TRAINED, 500 * GIB) == streamed


def test_words_say_what_was_chosen():
    words = in_words(chosen(12), WAN, 12 * GIB)
    assert words.startswith("12 GB preset (provisional, not yet confirmed on a GPU): ")
    assert "of 40 blocks on the GPU, the others streamed" in words and "blocks in the main memory" in words
    assert "all blocks on the GPU" in in_words(chosen(48), WAN, 48 * GIB)


def test_the_table_of_cards_says_what_is_chosen():
    text = (Path(__file__).parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
    half = replace(WAN, weights=2 * WAN.weights, block_weights=2 * BLOCK, stored_itemsize=2)
    for card in CARDS:
        cells = []
        for size, latent in ((WAN, PAPER), (half, PAPER), (WAN, (1, 16, 4, 60, 104))):
            found = chosen(card, latent, size)
            rest = size.weights - size.blocks * size.block_weights
            on_card = min((found.kept_weights - rest) // size.block_weights, size.blocks)
            cells.append(f"{on_card}, {found.offloaded}, {found.whole}")
        assert f"| {card} GB | {' | '.join(cells)} |" in text


def test_a_preset_changes_no_result_and_is_said(monkeypatch):
    from steadyedit.backends.diffusers.video import DiffusersVideoModel

    model = DiffusersVideoModel(transformer(), (0.1,) * 16, (1.5,) * 16)
    labels, plain = [], train_mask_lora(BACKEND, model, [sample()], recipe(2), progress=Quiet())
    monkeypatch.setattr(type(BACKEND), "progress", lambda self, total, label: labels.append(label) or Quiet())
    tuned = train_mask_lora(BACKEND, model, [sample()], recipe(2), replace(VideoSettings(), budget=8 * GIB))
    assert all(torch.equal(value, plain.weights.tensors[key]) for key, value in tuned.weights.tensors.items())
    assert labels[0].startswith("mask-aware LoRA, 8 GB preset (provisional")


def test_inputs_that_wait_in_the_main_memory_change_no_gradient(monkeypatch):
    from steadyedit.backends import offload
    from steadyedit.backends.diffusers.video import DiffusersVideoModel
    from steadyedit.methods.lora_edit.memory import MemoryPlan
    from test_lora_edit_training import moving

    model, moved, found = DiffusersVideoModel(transformer(), (0.1,) * 16, (1.5,) * 16), [], []
    monkeypatch.setattr(offload, "to_main_memory", lambda x: moved.append(tuple(x.shape)) or x.clone())
    for told in (MemoryPlan(0, 0, 0, 0), MemoryPlan(0, 0, 0, 0, offloaded=1)):
        with BACKEND.video_training(model, [sample()], moving(model), told, "auto") as view:
            (view.predict_velocity(sample().latent, torch.tensor(0.4), 0) - 1).square().mean().backward()
            found.append([p.grad.clone() for p in view.parameters.values()])
    # The first block's input: two frames of 2 x 2 tokens of 24 channels.
    assert moved == [(1, 8, 24)]
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_blocks_that_are_not_computed_again_change_no_gradient(monkeypatch):
    from steadyedit.backends.diffusers import video
    from steadyedit.backends.diffusers.video import DiffusersVideoModel
    from steadyedit.methods.lora_edit.memory import MemoryPlan
    from test_lora_edit_training import moving

    model, again, found = DiffusersVideoModel(transformer(), (0.1,) * 16, (1.5,) * 16), [], []
    checkpoint = video.checkpoint
    monkeypatch.setattr(video, "checkpoint", lambda *a, **k: again.append(1) or checkpoint(*a, **k))
    blocks = len(model.transformer.blocks)
    for whole in (0, 1, blocks):
        told = MemoryPlan(0, 0, 0, 0, whole=whole)
        with BACKEND.video_training(model, [sample()], moving(model), told, "auto") as view:
            (view.predict_velocity(sample().latent, torch.tensor(0.4), 0) - 1).square().mean().backward()
            found.append([p.grad.clone() for p in view.parameters.values()])
        assert len(again) == blocks - whole
        again.clear()
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_out_of_memory_computes_every_block_again_before_any_is_streamed(monkeypatch):
    from steadyedit.backends.diffusers.video import DiffusersVideoModel
    from steadyedit.methods.lora_edit.train import MaskTask, first_lora, plans_of

    model = DiffusersVideoModel(transformer(), (0.1,) * 16, (1.5,) * 16)
    lora, blocks = first_lora(BACKEND, model, recipe(2), None), len(model.transformer.blocks)
    again, streamed = "with every block computed again", "with no block of the model kept on the device"

    def planned(settings, **options):
        plans, _ = plans_of(BACKEND, model, [sample()], 16, lora, settings, **options)
        task = MaskTask(BACKEND, model, [sample()], [sample().latent], lora, recipe(2), "auto", tuple(plans))
        return [found.whole for found in plans], task.less_memory

    free, (told, *_) = VideoSettings(), plans_of(BACKEND, model, [sample()], 16, lora, VideoSettings())[0]
    assert planned(free) == ([blocks, 0, 0], (again, streamed))
    assert planned(replace(free, budget=8 * GIB)) == ([blocks, 0, 0], (again, streamed))
    # Where streaming was asked for, or another process shares the room, blocks are computed again at once.
    assert planned(replace(free, blocks_kept=0)) == ([0], ())
    assert planned(free, alone=False) == ([0, 0], (streamed,))
    # Room for the weights and for one block's values more.
    size = BACKEND.video_size(model, sample(), "auto", lora)
    room = int((size.weights + told.beside_weights) / (1 - SPARE)) - 1
    monkeypatch.setattr(type(BACKEND), "video_room", lambda self, model: (room, "the card"))
    assert planned(free)[0][0] == blocks - 1
