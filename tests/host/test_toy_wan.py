"""The toy video model in the host: stock classes, and diffusers' numbers for the same weights."""

from __future__ import annotations

import comfy.model_base
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy_extras import nodes_wan
from shared import shared
from steadyedit.backends.comfy_native import toy, toy_wan
from steadyedit.toyworld import models
from steadyedit.toyworld.models import wan, wan_vae
from steadyedit.toyworld.training.judging import clips as animate
from tolerances import NETWORK, RUN

TOLERANCE = NETWORK
FRAMES, HEIGHT, WIDTH = 5, 32, 48


@shared
def transformer():
    """Random, but the same in every test, and no layer at a start that hides it."""
    torch.manual_seed(0)
    module = wan.build().eval().requires_grad_(False)
    for parameter in module.parameters():
        parameter.add_(0.05 * torch.randn(parameter.shape))
    return module


@shared
def own_vae():
    torch.manual_seed(1)
    module = wan_vae.WanVAE().eval().requires_grad_(False)
    for parameter in module.parameters():
        parameter.add_(0.05 * torch.randn(parameter.shape))
    return module


@shared
def host_vae():
    return toy_wan.vae_from(wan_vae.whole_kernels(own_vae().state_dict()))


@shared
def host_model():
    return toy_wan.model_from(wan.to_wan(transformer().state_dict()))


def test_the_host_takes_it_for_wan_image_to_video():
    base = host_model().model
    assert type(base) is comfy.model_base.WAN21 and base.image_to_video
    assert base.diffusion_model.patch_embedding.in_channels == 36
    assert base.model_sampling.shift == wan.SHIFT
    assert base.latent_format.latents_mean.flatten().tolist() == pytest.approx(wan_vae.MEAN)
    assert base.latent_format.latents_std.flatten().tolist() == pytest.approx(wan_vae.STD)


@pytest.mark.parametrize("shape", [(2, 36, 2, 4, 6), (1, 36, 1, 6, 4)])
def test_the_transformer_agrees_with_diffusers(shape):
    generator = torch.Generator().manual_seed(2)
    x, text = torch.randn(shape, generator=generator), torch.randn(shape[0], 77, 96, generator=generator)
    t = torch.tensor([10.0, 640.0])[:shape[0]]
    with torch.no_grad():
        expected = transformer()(x, t, text).sample
        found = host_model().model.diffusion_model(x, t, text)
    assert (found - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("frames", [1, 5, 13])
def test_the_autoencoder_agrees_with_the_one_that_trains(frames):
    clip = torch.rand(frames, HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(3))
    vae = host_vae()
    with torch.no_grad():
        mean, _ = own_vae().moments(clip.permute(3, 0, 1, 2)[None] * 2 - 1)
        pictures = (own_vae().decode(mean)[0].permute(1, 2, 3, 0) / 2 + 0.5).clamp(0, 1)
    latents = vae.encode(clip)
    assert latents.shape == (1, 16, (frames - 1) // 4 + 1, HEIGHT // 8, WIDTH // 8)
    assert (latents - mean).abs().max() < TOLERANCE
    assert (vae.decode(latents)[0] - pictures).abs().max() < TOLERANCE


def test_a_stock_graph_gives_the_toy_worlds_own_clip():
    """WanImageToVideo and KSampler's Euler on the simple scheduler against `toyworld.training.judging.clips`."""
    torch.manual_seed(4)
    encoder, steps = models.build_text_encoder().eval().requires_grad_(False), 3
    clip = toy.clip_from(models.to_file_keys("text_encoder", encoder.state_dict()))
    first, caption = torch.rand(1, HEIGHT, WIDTH, 3), "a red ball on grass"
    said = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (caption, "")]
    positive, negative, latent = nodes_wan.WanImageToVideo.execute(
        *said, host_vae(), WIDTH, HEIGHT, FRAMES, 1, start_image=first).result
    noise = torch.randn(latent["samples"].shape, generator=torch.Generator().manual_seed(0))
    sampling = host_model().get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", steps)
    found = comfy.sample.sample(host_model().clone(), noise, steps, 1.0, "euler", "normal", positive, negative,
                                latent["samples"], disable_pbar=True, seed=0)
    with torch.no_grad():
        y = animate.condition_of(own_vae(), first, FRAMES)
        text, z = encoder(models.tokenize([caption])).last_hidden_state, noise * sigmas[0]
        for now, then in zip(sigmas, sigmas[1:]):
            z = z + (then - now) * transformer()(torch.cat([z, y], 1), 1000 * now[None], text).sample
    z = z * wan_vae.channels(wan_vae.STD) + wan_vae.channels(wan_vae.MEAN)
    assert (found - z).abs().max() < RUN * z.abs().max()


def test_a_deep_copy_reloads_its_weights(monkeypatch):
    """The host's own trainer and multi-GPU copies ask the loader for a MODEL of their own."""
    state = wan.to_wan(transformer().state_dict())
    monkeypatch.setattr(models, "state_of", lambda name: state)
    patcher = toy_wan.load_model()
    if "force_deepcopy" not in patcher.clone.__code__.co_varnames:
        pytest.skip("this host knows no deep copies")
    copy = patcher.clone(force_deepcopy=True)
    assert copy.model is not patcher.model
    mine, theirs = copy.model.state_dict(), patcher.model.state_dict()
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)
