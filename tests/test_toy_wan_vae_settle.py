"""The video autoencoder's second stage: only the decoder learns, most where things move."""

from __future__ import annotations

import torch
from steadyedit.toyworld.models import wan_vae
from steadyedit.toyworld.training.recipes import wan_vae_settle as settle
from tolerances import NETWORK


def clip_with_a_moving_dot() -> torch.Tensor:
    x = torch.zeros(1, 3, 5, 32, 32)
    for frame in range(5):
        x[:, :, frame, 16, 8 + frame] = 1
    return x


def test_what_changes_and_its_neighbourhood_counts():
    near = settle.changing(clip_with_a_moving_dot())
    assert near.shape == (1, 1, 1, 32, 32)
    assert near[0, 0, 0, 13:20, 5:16].eq(1).all() and near.sum() == 7 * 11


def test_the_loss_weighs_errors_there_and_moves_the_decoder_alone(monkeypatch):
    torch.manual_seed(0)
    vae, x = wan_vae.WanVAE(), clip_with_a_moving_dot()
    settle.loss_of(vae, x).backward()
    assert vae.encoder.conv1.weight.grad is None and vae.decoder.conv1.weight.grad is not None
    losses = []
    for row in (16, 28):  # the same error within and outside
        shown = x.clone()
        shown[:, :, :, row, 20 if row == 28 else 10] += 0.5
        monkeypatch.setattr(wan_vae.WanVAE, "decode", lambda self, z, shown=shown: shown)
        losses.append(settle.loss_of(vae, x).item())
    assert abs(losses[0] / losses[1] - (1 + settle.FOCUS)) < NETWORK
