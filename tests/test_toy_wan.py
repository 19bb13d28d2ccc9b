"""The toy video model without a host: its names, its arithmetic, its data, and the judge of its clips."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from steadyedit.toyworld import models
from steadyedit.toyworld.models import wan, wan_vae
from steadyedit.toyworld.training.judging import clips as animate
from steadyedit.toyworld.training.recipes import wan as recipe
from steadyedit.toyworld.world.clips import scene_of, slow_scene
from steadyedit.toyworld.world.rendering import render, render_still
from steadyedit.toyworld.world.scene import sample_scene, slowed
from tolerances import FLOAT32_STEP, NETWORK, RUN


def moved(module):
    """Weights away from their start: zeros there would hide what a layer does."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return module.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def own():
    torch.manual_seed(0)
    return moved(wan_vae.WanVAE())


@pytest.fixture(scope="module")
def theirs(own):
    module = wan.build_vae().eval()
    module.load_state_dict(wan.vae_to_diffusers(wan_vae.whole_kernels(own.state_dict())), strict=True)
    return module


@pytest.mark.parametrize("frames", [1, 5, 13])
def test_the_whole_clip_at_once_is_diffusers_piece_by_piece(own, theirs, frames):
    x = torch.rand(1, 3, frames, 24, 32) * 2 - 1
    with torch.no_grad():
        mean, log_variance = own.moments(x)
        found = theirs.encode(x).latent_dist
        assert mean.shape == (1, 16, (frames - 1) // 4 + 1, 3, 4)
        assert torch.allclose(mean, found.mean, atol=NETWORK)
        assert torch.allclose(log_variance.clamp(-30, 20), found.logvar, atol=NETWORK)
        assert torch.allclose(own.decode(mean).clamp(-1, 1), theirs.decode(mean).sample, atol=NETWORK)


def test_normalising_changes_latents_and_no_picture(own):
    x = torch.rand(2, 3, 5, 24, 32) * 2 - 1
    before, _ = own.moments(x)
    picture, changed = own.decode(before), wan_vae.WanVAE()
    changed.load_state_dict(own.state_dict())
    shift = before.mean((0, 2, 3, 4))
    wan_vae.normalise(changed, shift, (before - wan_vae.channels(tuple(shift.tolist()))).std())
    with torch.no_grad():
        after, _ = changed.moments(x)
        z = (after - wan_vae.channels(wan_vae.MEAN)) / wan_vae.channels(wan_vae.STD)
        assert z.mean((0, 2, 3, 4)).abs().max() < RUN and abs(z.std() - 1) < RUN
        assert torch.allclose(changed.decode(after), picture, atol=NETWORK)


def test_kernels_survive_the_file(own):
    back = wan_vae.own_kernels(wan_vae.whole_kernels(own.state_dict()))
    assert all(value.equal(back[key]) for key, value in own.state_dict().items())


def test_the_transformers_names_are_wans():
    state = wan.build().state_dict()
    native = wan.to_wan(state)
    assert native["blocks.0.norm3.weight"] is state["blocks.0.norm2.weight"], "the two count norms differently"
    assert {"head.modulation", "blocks.5.modulation", "patch_embedding.weight", "blocks.0.self_attn.q.weight",
            "blocks.0.cross_attn.norm_k.weight", "blocks.0.ffn.2.bias", "time_projection.1.bias"} <= native.keys()
    back = wan.to_diffusers(native)
    assert back.keys() == state.keys() and all(back[key] is value for key, value in state.items())


def test_latents_for_training_are_the_autoencoders(own):
    long = (render(slow_scene(2, frames=recipe.LONG)).frames[:, ::4, ::4] * 255).round().byte()
    latents, conditions = recipe.encode((own.encoder.within, own.encoder.across), own, long.numpy())
    windows = [list(window) for window in recipe.windows(recipe.LONG)]
    assert [(w[0], w[-1]) for w in windows] == [(0, 12), (12, 24), (12, 0), (24, 12)], "forwards, then backwards"
    clips = long[torch.tensor(windows)]
    with torch.no_grad():
        z, _ = own.moments(clips.permute(0, 4, 1, 2, 3).float() / 127.5 - 1)
        y = animate.condition_of(own, clips[:, 0].float() / 255)
    z = (z - wan_vae.channels(wan_vae.MEAN)) / wan_vae.channels(wan_vae.STD)
    assert torch.allclose(latents, z, atol=NETWORK)
    assert torch.allclose(conditions, y[:, 4:], atol=NETWORK), "one encoding of the first frame, then gray"
    assert torch.allclose(conditions[:, :, 0], latents[:, :, 0], atol=NETWORK), "causal: frame 0 knows of no other"


def test_a_slowed_scene_shows_the_same_frames_later():
    scene = sample_scene(7, "test", frames=13)
    slow = slowed(scene, 3)
    assert render_still(scene, 0).tobytes() == render_still(slow, 0).tobytes()
    assert np.abs(render_still(scene, 2).astype(int) - render_still(slow, 6)).max() <= 1
    assert np.abs(render_still(scene, 2).astype(int) - render_still(slow, 2)).max() > 50


def test_the_neighbourhood_of_objects_goes_along_with_the_windows():
    scene = slow_scene(3, frames=recipe.LONG)
    near = recipe.near_objects(scene)
    assert near.shape == (4, 4, 16, 16) and near.any((2, 3)).all()
    assert (near[1, 0] == near[2, 0]).all(), "two windows that begin with the same frame"


def test_the_mask_keeps_the_first_frame_and_no_part_of_one():
    mask = recipe.first_frame_mask(4, 2, 3)
    assert mask.shape == (1, 4, 4, 2, 3) and mask[:, :, 0].eq(1).all() and mask[:, :, 1:].eq(0).all()


def batch_of(count: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(count, 16, 2, 4, 4, generator=generator)
    return {"latents": latents, "conditions": latents * 0.5, "near": torch.zeros(count, 2, 4, 4, dtype=torch.bool),
            "text": torch.randn(count, 77, 96, generator=generator)}


def test_the_loss_is_flow_matching():
    class Known(torch.nn.Module):
        def forward(self, seen, timestep, text):
            """The true velocity, from what the network sees: y is half the clean latent here."""
            s = (timestep / 1000)[:, None, None, None, None]
            clean = 2 * seen[:, 20:]
            assert seen.shape[1] == 36 and seen[:, 16:20, 0].eq(1).all() and seen[:, 16:20, 1:].eq(0).all()
            return type("Output", (), {"sample": (seen[:, :16] - clean) / s})

    assert recipe.loss_of(Known(), batch_of(), torch.Generator().manual_seed(2)) < FLOAT32_STEP


def test_the_loss_falls():
    torch.manual_seed(4)
    network, batch = wan.build(), batch_of()
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)
    losses = []
    for _ in range(12):
        loss = recipe.loss_of(network, batch, torch.Generator().manual_seed(5))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_sigmas_are_the_hosts():
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=wan.SHIFT)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 0, 9)[:-1].tolist())
    assert torch.allclose(animate.sigmas_of(8), scheduler.sigmas, atol=FLOAT32_STEP)


def test_clips_have_the_asked_shape_and_begin_as_told(own):
    torch.manual_seed(6)
    first = torch.rand(2, 16, 32, 3)
    parts = own, wan.build().eval(), models.build_text_encoder().eval()
    for guidance in (1.0, 2.0):
        said = ["a red ball on grass", "a blue ring on sand"]
        clips = animate.animate(first, said, 2, guidance, frames=5, parts=parts)
        assert clips.shape == (2, 5, 16, 32, 3) and 0 <= clips.min() and clips.max() <= 1


def test_the_values_of_the_diffusers_backend(own, theirs, monkeypatch):
    from steadyedit.backends.diffusers.backend import DiffusersBackend

    for name, module in (("wan", wan.build()), ("wan_vae", theirs), ("text_encoder", models.build_text_encoder())):
        monkeypatch.setattr(models, f"load_{name}", lambda module=module: module.eval().requires_grad_(False))
    model, clip, vae = DiffusersBackend().load_toy_video()
    assert model.transformer.config.in_channels == 36 and model.mean == wan_vae.MEAN and model.std == wan_vae.STD
    assert clip.encode_from_tokens_scheduled(clip.tokenize("a red ball"))[0][0].shape == (1, 77, 96)
    pixels = torch.rand(7, 24, 34, 3)
    latents = vae.encode(pixels)
    with torch.no_grad():
        mean, _ = own.moments(pixels[:5, :, 1:33].permute(3, 0, 1, 2)[None] * 2 - 1)
        assert torch.allclose(latents, mean, atol=NETWORK), "4 N + 1 frames, multiples of 8 from the middle"
        shown = (own.decode(mean)[0].permute(1, 2, 3, 0) / 2 + 0.5).clamp(0, 1)
    assert torch.allclose(vae.decode(latents), shown, atol=NETWORK)


def test_the_tracker_finds_what_moves():
    from steadyedit.toyworld.models.classifier import boxes_of

    clip = render(scene_of(0, "test", objects=1, photo=False))
    places = animate.follow(clip.frames, boxes_of(clip.masks[0, :1])[0])
    centres = lambda boxes: (boxes[:, :2] + boxes[:, 2:]) / 2  # noqa: E731
    assert (centres(places) - centres(boxes_of(clip.masks[0]))).norm(dim=1).max() < 12
