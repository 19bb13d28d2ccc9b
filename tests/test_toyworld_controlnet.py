"""The toy ControlNet: its edges, its file, where its training starts, and that pictures follow it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from steadyedit.toyworld import models
from steadyedit.toyworld.models import control_file
from steadyedit.toyworld.models.control import controlled, edge_agreement, edges
from steadyedit.toyworld.training.edges import hints_of
from steadyedit.toyworld.training.recipes import controlnet as recipe
from steadyedit.toyworld.training.recipes import controlnet_slim as slimming
from tolerances import CODEC, RUN

trained = pytest.mark.skipif(not models.weights_path("controlnet").exists(), reason="the ControlNet is not trained")


def square(left: int, side: int = 20) -> torch.Tensor:
    """A bright square on a dark picture, [1,64,64,3]."""
    image = torch.full((1, 64, 64, 3), 0.2)
    image[:, 20 : 20 + side, left : left + side] = 0.8
    return image


def test_edges_are_outlines_and_each_picture_has_its_own():
    both = edges(torch.cat([square(10), square(30)]))
    assert both.unique().tolist() == [0, 1] and torch.equal(both[..., 0], both[..., 2])
    assert torch.equal(both[1:], edges(square(30)))
    assert 60 < both[0, ..., 0].sum() < 100, "the square's outline"


def test_agreement():
    one, near, far = edges(square(10)), edges(square(11)), edges(square(40))
    assert edge_agreement(one, one) == 1 and edge_agreement(near, one) == 1 and edge_agreement(far, one) < 0.5
    nothing = torch.zeros_like(one)
    assert edge_agreement(nothing, nothing) == 1 and edge_agreement(nothing, one) == 0


#: of a toy ControlNet's tensors
NAMES = tuple(models.build_controlnet().state_dict())


def test_names_go_there_and_back():
    torch.manual_seed(0)
    state = models.build_controlnet().state_dict()
    stock = control_file.to_stock(state)
    for name in ("time_embed.0.weight", "input_blocks.0.0.weight", "input_blocks.3.0.skip_connection.weight",
                 "input_blocks.2.0.op.weight", "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight",
                 "middle_block.2.out_layers.3.weight", "zero_convs.7.0.weight", "middle_block_out.0.weight",
                 "input_hint_block.14.weight"):  # fmt: skip
        assert name in stock
    assert control_file.MARK in stock and len(stock) == len(state) + 1
    back = control_file.from_stock(stock, {}, state)
    assert back.keys() == state.keys() and all(torch.equal(back[key], state[key]) for key in state)


def test_what_the_file_lacks_comes_from_the_u_net():
    base = {"conv_in.weight": torch.ones(1), "up_blocks.0.resnets.0.conv1.weight": torch.ones(1)}
    assert control_file.from_stock({control_file.MARK: torch.zeros(0)}, base, NAMES).keys() == {"conv_in.weight"}
    with pytest.raises(ValueError, match="holds out.2.weight, which the toy ControlNet has no place for"):
        control_file.from_stock({"out.2.weight": torch.ones(1)}, base, NAMES)


def test_factors_are_added_to_the_u_nets_weight():
    weight, up, down = torch.randn(6, 4, 3, 3), torch.randn(6, 2), torch.randn(2, 36)
    base = {"conv_in.weight": weight.half()}
    stored = control_file.to_stock({"conv_in.up": up, "conv_in.down": down})
    assert stored.keys() == {control_file.MARK, "input_blocks.0.0.up", "input_blocks.0.0.down"}
    whole = control_file.from_stock(stored, base, NAMES)["conv_in.weight"]
    assert torch.equal(whole, base["conv_in.weight"].float() + (up @ down).view(6, 4, 3, 3))
    del stored["input_blocks.0.0.down"]
    with pytest.raises(ValueError, match="holds input_blocks.0.0.up, which the toy ControlNet has no place for"):
        control_file.from_stock(stored, base, NAMES)


def test_a_difference_gets_the_least_rank_for_its_inputs():
    torch.manual_seed(0)
    x = torch.randn(500, 20) * torch.linspace(3, 0.01, 20)
    moment = (x.T @ x).double() / 500
    difference = torch.randn(12, 20)
    up, down = slimming.low_rank(difference, moment, 0.9)
    answers, error = x @ difference.T, x @ (difference - up @ down).T
    lost = (error**2).sum() / (answers**2).sum()
    rank = up.shape[1]
    assert 1 < rank < 12 and lost <= 0.1 + RUN
    left, lengths, right = torch.linalg.svd(difference)
    plain = (left[:, :rank] * lengths[:rank]) @ right[:rank]
    assert ((x @ (difference - plain).T) ** 2).sum() > (error**2).sum(), "inputs matter"
    exact = slimming.low_rank(up @ down, moment, 1 - 1e-12)
    assert torch.allclose(exact[0] @ exact[1], up @ down, atol=RUN)


def test_channels_that_others_tell_of_go_first():
    torch.manual_seed(0)
    own = torch.randn(400, 3, 2)
    given = torch.cat([own, own[:, :1] * 2, own[:, 1:2] - own[:, 2:]], 1).flatten(1)
    weight = torch.randn(7, 5, 2, 1)
    keep, refitted = slimming.fewer_channels(weight, (given.T @ given).double() / 400, 3, at_once=1)
    fewer = given.view(400, 5, 2)[:, keep].flatten(1)
    assert len(keep) == 3 and refitted.shape == (7, 3, 2, 1)
    assert torch.allclose(fewer @ refitted.flatten(1).T, given @ weight.flatten(1).T, atol=CODEC)


def test_the_hints_bits_come_back():
    drawn = np.random.default_rng(0).random((2, 128, 128)) > 0.9
    hints = hints_of(np.packbits(drawn, axis=-1))
    assert hints.shape == (2, 3, 128, 128) and np.array_equal(hints[:, 1].numpy() > 0, drawn)


@trained
def test_training_starts_silent_and_leaves_frozen_what_the_file_does_not_hold():
    unet, controlnet = recipe.starting_point()
    x, t, context = torch.randn(1, 4, 16, 16), torch.tensor([300]), torch.randn(1, 77, 96)
    with torch.no_grad():
        alone = unet(x, t, context).sample
        assert torch.equal(controlled(unet, controlnet, torch.rand(1, 3, 128, 128))(x, t, context).sample, alone)
    still = {name for name, parameter in controlnet.named_parameters() if not parameter.requires_grad}
    base, loaded = unet.state_dict(), models.load_controlnet().state_dict()
    assert len(still) == 30 and all(torch.equal(loaded[name], base[name]) for name in still)


@trained
def test_pictures_follow_the_edges():
    from steadyedit.toyworld.training.judging.prompts import judge_control

    found = judge_control(6, steps=10)
    assert found["edges"] > 0.5 > found["edges_without"] + 0.15
    assert models.weights_path("controlnet").stat().st_size < 1.5e6
