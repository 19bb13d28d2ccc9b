"""Pictures of latents in the host's colours: the toy world's own, and those of models of other channels."""

from __future__ import annotations

from types import SimpleNamespace

import comfy.latent_formats
import latent_preview
import numpy as np
import pytest
import torch
from steadyedit.backends.comfy_native import toy, toy_wan
from steadyedit.backends.comfy_native.previews import latent_picture
from steadyedit.methods.preview import middle_frame
from steadyedit.toyworld import render, sample_scene


def with_format(latent_format):
    return SimpleNamespace(load_device=torch.device("cpu"), model=SimpleNamespace(latent_format=latent_format))


@pytest.mark.parametrize("load", [toy.load, toy_wan.load], ids=["toy", "toy wan"])
@pytest.mark.parametrize("colour, channel", [("red", 0), ("green", 1), ("blue", 2)])
def test_a_toy_fish_is_seen_in_its_colour(load, colour, channel):
    model, _, vae = load()
    clip = render(sample_scene(5, "test", frames=5, size=128, colour=colour, shape="fish", texture="plain",
                               background="gray", style="none", objects=1))
    latents = model.model.latent_format.process_in(vae.encode(clip.frames))
    if latents.ndim == 5:
        latents, frame = latents[:, :, :1], 0
    else:
        latents, frame = middle_frame(latents), 2
    picture = np.asarray(latent_picture(model)(latents)).astype(float)
    inside = torch.nn.functional.avg_pool2d(clip.masks[0][frame][None], 8)[0] == 1
    assert picture.shape == (16, 16, 3) and picture[inside.numpy()].mean(0).argmax() == channel


@pytest.mark.parametrize("name", ["Wan21", "HunyuanVideo", "SD15", "SDXL", "Flux", "Wan22"])
def test_latents_of_any_model_have_the_hosts_colours(name):
    known = getattr(comfy.latent_formats, name)()
    shape = (1, known.latent_channels, 3, 4, 5) if name in ("Wan21", "Wan22", "HunyuanVideo") else \
        (1, known.latent_channels, 4, 5)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    frame = middle_frame(latents)
    one = frame[0, :, 0] if frame.ndim == 5 else frame[0]
    expected = one.movedim(0, -1) @ torch.tensor(known.latent_rgb_factors)
    if known.latent_rgb_factors_bias is not None:
        expected = expected + torch.tensor(known.latent_rgb_factors_bias)
    shown = np.asarray(latent_picture(with_format(known))(frame)).astype(float)
    assert np.abs(shown - ((expected + 1) / 2).clamp(0, 1).numpy() * 255).max() < 1.01
    assert shown.std(2).mean() > 5, "colours, not gray"


def test_the_previewer_that_the_user_chose_is_taken(monkeypatch):
    chosen = SimpleNamespace(decode_latent_to_preview_image=lambda kind, latent: (kind, ("chosen", latent.shape), 512))
    monkeypatch.setattr(latent_preview, "get_previewer", lambda device, latent_format: chosen)
    assert latent_picture(with_format(comfy.latent_formats.Wan21()))(torch.zeros(1, 16, 1, 2, 2)) == (
        "chosen", (1, 16, 1, 2, 2))  # fmt: skip


def test_unknown_latents_have_none():
    assert latent_picture(with_format(comfy.latent_formats.LatentFormat())) is None
