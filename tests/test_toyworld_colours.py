"""The toy world's latents in their colours: near the best linear map, and a green fish is green."""

from __future__ import annotations

import pytest
import torch
from steadyedit.toyworld import models, render, sample_scene
from steadyedit.toyworld.models.colours import MAPS, fit
from tolerances import NETWORK

pytestmark = pytest.mark.skipif(not models.weights_path("vae").is_file(), reason="the toy autoencoder is not trained")


def latents_of(pictures):
    """In the model's scale."""
    vae = models.load_vae()
    with torch.no_grad():
        return vae.encode(pictures.movedim(-1, 1) * 2 - 1).latent_dist.mode() * vae.config.scaling_factor


def shown(latents, colours):
    return latents.movedim(1, -1) @ colours[:-1] + colours[-1]


def test_the_map_is_near_the_best_for_other_clips():
    pictures = torch.cat([render(sample_scene(seed, "test", frames=1, size=128)).frames for seed in range(24)])
    latents, known = latents_of(pictures), torch.tensor(MAPS["vae"])
    cells = torch.nn.functional.avg_pool2d(pictures.movedim(-1, 1), 8).movedim(1, -1) * 2 - 1
    error, best = ((shown(latents, m.float()) - cells).square().mean() for m in (known, fit(latents, pictures)))
    assert error < 1.4 * best and error < 0.25 * cells.var()


@pytest.mark.parametrize("colour, channel", [("red", 0), ("green", 1), ("blue", 2)])
def test_a_colour_is_its_own(colour, channel):
    clip = render(sample_scene(5, "test", frames=1, size=128, colour=colour, shape="ball", texture="plain",
                               background="gray", style="none", objects=1))
    inside = torch.nn.functional.avg_pool2d(clip.masks[0][:, None], 8)[:, 0] == 1
    mean = shown(latents_of(clip.frames), torch.tensor(MAPS["vae"]))[inside].mean(0)
    assert mean.argmax() == channel


def test_a_fit_finds_a_map():
    known = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    latents = torch.randn(2, 4, 6, 7, generator=torch.Generator().manual_seed(1))
    pictures = ((shown(latents, known) + 1) / 2).repeat_interleave(8, 1).repeat_interleave(8, 2)
    assert (fit(latents, pictures) - known).abs().max() < NETWORK
