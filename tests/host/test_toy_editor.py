"""The toy editor in the host: an InstructPix2Pix whose numbers are diffusers'."""

from __future__ import annotations

import json

import comfy.model_base
import pytest
import torch
from comfy_extras import nodes_custom_sampler, nodes_ip2p
from guidance import dual_guidance
from safetensors.torch import save_file
from shared import shared
from steadyedit.backends.comfy_native import toy
from steadyedit.backends.diffusers.model import DiffusersModel
from steadyedit.diffusion.sampling import sample_euler
from steadyedit.toyworld import models
from tolerances import RUN
from toys import BACKEND, text, weights

FRAMES, PIXELS, STEPS = 2, 64, 2
CFG, CFG_IMAGE = 3.0, 1.2


@shared
def diffusers_editor():
    """Random, but the same in every test."""
    torch.manual_seed(4)
    return models.BUILDERS["editor"]().eval().requires_grad_(False)


@shared
def autoencoder():
    torch.manual_seed(5)
    return toy.vae_from(models.build_vae().eval().state_dict())


def frames():
    return torch.rand(FRAMES, PIXELS, PIXELS, 3, generator=torch.Generator().manual_seed(6))


def test_the_host_takes_it_for_instruct_pix2pix():
    patcher = toy.unet_from(diffusers_editor().state_dict())
    assert type(patcher.model) is comfy.model_base.SD15_instructpix2pix
    x, context, t = torch.randn(2, 8, 8, 16), torch.randn(2, 77, 96), torch.tensor([10.0, 600.0])
    with torch.no_grad():
        difference = patcher.model.diffusion_model(x, t, context) - diffusers_editor()(x, t, context).sample
    assert difference.abs().max() < RUN


@pytest.mark.parametrize("cfg_image", [CFG_IMAGE, 1.0])
def test_the_core_nodes_edit_as_diffusers_does(cfg_image):
    """InstructPixToPixConditioning, DualCFGGuider, SamplerCustomAdvanced with their schema's own names."""
    patcher = toy.unet_from(diffusers_editor().state_dict())
    told, silent = text(1), text(2)
    with torch.inference_mode():
        cond1, cond2, latent = nodes_ip2p.InstructPixToPixConditioning.execute(
            positive=told, negative=silent, pixels=frames(), vae=autoencoder()).args
        latent["batch_index"] = [0] * FRAMES  # what LatentBatchSeedBehavior says for "fixed"
        guider = nodes_custom_sampler.DualCFGGuider.execute(
            model=patcher, cond1=cond1, cond2=cond2, negative=silent, cfg_conds=CFG, cfg_cond2_negative=cfg_image,
            style="regular").args[0]
        sigmas = nodes_custom_sampler.BasicScheduler.execute(
            model=patcher, scheduler="normal", steps=STEPS, denoise=1.0).args[0]
        found = nodes_custom_sampler.SamplerCustomAdvanced.execute(
            noise=nodes_custom_sampler.RandomNoise.execute(noise_seed=3).args[0], guider=guider,
            sampler=nodes_custom_sampler.KSamplerSelect.execute(sampler_name="euler").args[0], sigmas=sigmas,
            latent_image=latent).args[0]["samples"]

    noise = torch.randn(1, 4, PIXELS // 8, PIXELS // 8, generator=torch.Generator().manual_seed(3))
    denoise = dual_guidance(
        DiffusersModel(diffusers_editor()), cond1, cond2, silent, CFG, cfg_image, frames=FRAMES)
    x = noise.expand(FRAMES, -1, -1, -1) * (1 + sigmas[0] ** 2).sqrt()
    with torch.no_grad():
        expected = sample_euler(denoise, x, sigmas, disable=True) / 0.18215
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < RUN * expected.abs().max().clamp(min=1)


@pytest.fixture
def weight_files(tmp_path, monkeypatch):
    """Random models in place of the trained ones, the editor as an overlay on the U-Net."""
    base = {key: value.half() for key, value in models.build_unet().state_dict().items()}
    state = {**base, **{key: diffusers_editor().state_dict()[key].half()
                        for key in ("conv_in.weight", "conv_out.weight", "conv_out.bias")}}
    states = {
        "unet": base, "editor": state, "vae": models.build_vae().state_dict(),
        "editor_text_encoder": models.build_text_encoder().state_dict(),
    }  # fmt: skip
    monkeypatch.setattr(models, "WEIGHTS", tmp_path)
    models.check_hash.cache_clear()
    for name, tensors in states.items():
        own, record = models.without_base(name, models.to_file_keys(name, tensors), {})
        save_file({key: value.half().contiguous() for key, value in own.items()}, tmp_path / f"{name}.safetensors")
        record["sha256"] = models.sha256_of(tmp_path / f"{name}.safetensors")
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    yield state
    models.check_hash.cache_clear()


def test_it_loads_over_its_base_and_a_deep_copy_reloads_it(weight_files):
    patcher, clip, vae = BACKEND.load_toy_editor()
    inner = patcher.model.diffusion_model
    assert torch.equal(inner.input_blocks[0][0].weight, weight_files["conv_in.weight"].float())
    assert torch.equal(inner.time_embed[0].weight, weight_files["time_embedding.linear_1.weight"].float())
    assert clip.encode_from_tokens_scheduled(clip.tokenize("make the ball blue"))[0][0].shape == (1, 77, 96)
    if "force_deepcopy" not in patcher.clone.__code__.co_varnames:
        pytest.skip("this host knows no deep copies")
    own = patcher.clone(force_deepcopy=True)
    before, after = weights(patcher), weights(own)
    assert own.model is not patcher.model and type(own.model) is type(patcher.model)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_another_base_is_refused(weight_files):
    record = json.loads((models.WEIGHTS / "editor.json").read_text())
    (models.WEIGHTS / "editor.json").write_text(json.dumps({**record, "base_sha256": "0" * 64}))
    with pytest.raises(ValueError, match="unet.safetensors is not the file that editor was trained from"):
        BACKEND.load_toy_editor()
