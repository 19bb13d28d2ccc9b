"""The toy world's models in the host: the same numbers as in diffusers and transformers, for the same input."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from steadyedit.backends.comfy_native import toy
from steadyedit.toyworld import models
from tolerances import RUN
from toys import diffusers_unet, model, weights

TOLERANCE = RUN


def test_the_unet_agrees_with_diffusers():
    x, context, t = torch.randn(2, 4, 16, 24), torch.randn(2, 77, 96), torch.tensor([10.0, 600.0])
    with torch.no_grad():
        expected = diffusers_unet()(x, t, context).sample
        found = model().model.diffusion_model(x, t, context)
    assert (found - expected).abs().max() < TOLERANCE


def test_the_vae_agrees_with_diffusers():
    torch.manual_seed(1)
    source = models.build_vae().eval()
    host, images = toy.vae_from(source.state_dict()), torch.rand(2, 32, 48, 3)
    with torch.no_grad():
        latents = source.encode(images.movedim(-1, 1) * 2 - 1).latent_dist.mean
        decoded = (source.decode(latents).sample.movedim(1, -1) / 2 + 0.5).clamp(0, 1)
    assert (host.encode(images) - latents).abs().max() < TOLERANCE
    assert (host.decode(latents) - decoded).abs().max() < TOLERANCE


@pytest.mark.parametrize("caption", ["a red ball on grass", "", "a striped blue star and a yellow ring, at sunset"])
def test_the_text_encoder_agrees_with_transformers(caption):
    torch.manual_seed(2)
    source = models.build_text_encoder().eval()
    host = toy.clip_from(models.to_file_keys("text_encoder", source.state_dict()))
    with torch.no_grad():
        expected = source(models.tokenize([caption]))[0]
    ((found, _),) = host.encode_from_tokens_scheduled(host.tokenize(caption))
    assert found.shape == expected.shape == (1, 77, models.TEXT_CONFIG["hidden_size"])
    assert (found - expected).abs().max() < TOLERANCE


@pytest.fixture
def weight_files(tmp_path, monkeypatch):
    """Weights and sidecars of random models in place of the trained ones."""
    torch.manual_seed(3)
    for name in ("unet", "vae", "text_encoder"):
        state = models.to_file_keys(name, models.BUILDERS[name]().state_dict())
        path = tmp_path / f"{name}.safetensors"
        save_file({key: value.half().contiguous() for key, value in state.items()}, path)
        (tmp_path / f"{name}.json").write_text(json.dumps({"sha256": models.sha256_of(path)}))
    monkeypatch.setattr(models, "WEIGHTS", tmp_path)
    models.check_hash.cache_clear()
    yield tmp_path
    models.check_hash.cache_clear()


def test_a_deep_copy_reloads_its_weights(weight_files):
    """The host's own trainer and multi-GPU copies ask the loader for a MODEL of their own."""
    patcher, clip, vae = toy.load()
    if "force_deepcopy" not in patcher.clone.__code__.co_varnames:
        pytest.skip("this host knows no deep copies")
    own = patcher.clone(force_deepcopy=True)
    assert own.model is not patcher.model
    before, after = weights(patcher), weights(own)
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


def test_damaged_weights_are_refused(weight_files):
    data = bytearray((weight_files / "unet.safetensors").read_bytes())
    data[-1] ^= 1
    (weight_files / "unet.safetensors").write_bytes(bytes(data))
    with pytest.raises(ValueError, match="unet.safetensors is not the file that unet.json describes"):
        toy.load()
