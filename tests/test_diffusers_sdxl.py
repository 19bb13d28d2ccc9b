"""SDXL on the diffusers backend: what it reads beside its text, and what it is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from narrow_sdxl import POOLED, TEXT, conditioning, unet
from steadyedit.backends.diffusers import DiffusersBackend, DiffusersModel
from steadyedit.backends.diffusers.conditioning import added_of
from steadyedit.backends.diffusers.denoiser import Denoiser
from steadyedit.methods.dape.positions import stages
from steadyedit.methods.registry import build, build_on
from steadyedit.methods.tuning import TuneRecipe, tune
from tolerances import assert_close

BACKEND = DiffusersBackend()
SIZES = {"height": 96, "width": 160, "crop_h": 8, "crop_w": 24, "target_height": 64, "target_width": 72}


def clip(frames: int = 3, height: int = 8, width: int = 16):
    return torch.randn(frames, 4, height, width, generator=torch.Generator().manual_seed(5))


class Quiet:
    def update(self, value, preview=None, **numbers):
        pass


def test_one_evaluation_is_the_pipelines_own():
    """x_0 = x - sigma eps with what StableDiffusionXLPipeline hands its U-Net: pooled text, (height, width, top, left,
    target height, target width), both for every row."""
    x, sigma = clip(2) * 3, torch.tensor(2.5)
    model, given = DiffusersModel(unet()), conditioning(**SIZES)
    denoised = Denoiser(model, given, frames=2)(x, sigma.expand(2))
    ids = torch.tensor([[96.0, 160.0, 8.0, 24.0, 64.0, 72.0]]).expand(2, -1)
    added = {"text_embeds": given[0][1]["pooled_output"].expand(2, -1), "time_ids": ids}
    timestep = model.schedule.timestep(sigma)
    with torch.no_grad():
        noise = unet()(x / (1 + sigma**2).sqrt(), timestep, given[0][0].expand(2, -1, -1), added_cond_kwargs=added)[0]
    assert_close(denoised, (x - sigma * noise).double())
    trivial = Denoiser(model, conditioning(), frames=2)(x, sigma.expand(2))
    assert (trivial - denoised).abs().max() > 1e-3


def test_sizes_that_are_not_named_are_the_clips():
    ids = added_of(unet(), conditioning(), 3, (8, 16))["time_ids"]
    assert ids.tolist() == [[64.0, 128.0, 0.0, 0.0, 64.0, 128.0]] * 3
    # A target that is not named is the original, as in the host.
    ids = added_of(unet(), conditioning(height=512, width=640), 1, (8, 16))["time_ids"]
    assert ids.tolist() == [[512.0, 640.0, 0.0, 0.0, 512.0, 640.0]]


@pytest.mark.parametrize(("extra", "sentence"), [
    ({}, f"positive: SDXL base reads a pooled text of {POOLED} numbers, but the condition holds none; encode"),
    ({"pooled_output": torch.zeros(1, 16)}, f"of {POOLED} numbers, but the condition holds 16 numbers; encode"),
    ({"pooled_output": torch.zeros(2, POOLED)}, "positive: holds 2 pooled texts, but the clip has 3 frames; give one"),
])  # fmt: skip
def test_a_pooled_text_that_does_not_fit_is_refused(extra, sentence):
    with pytest.raises(ValueError, match=sentence):
        Denoiser(DiffusersModel(unet()), [[torch.zeros(1, 77, TEXT), extra]], frames=3)(clip(), torch.ones(3))


def test_velocity_and_other_embeddings_are_refused():
    with pytest.raises(TypeError, match="^model: predicts v_prediction and not noise"):
        DiffusersModel(unet(), prediction="v_prediction")
    odd = copy.deepcopy(unet())
    odd.register_to_config(addition_embed_type="image_hint")
    with pytest.raises(TypeError, match="^model: this U-Net reads 'image_hint' beside its text"):
        DiffusersModel(odd)


def test_a_pipelines_scale_and_schedule_are_taken():
    class Config(dict):
        __getattr__ = dict.__getitem__

    class Pipeline:
        unet = unet()
        vae = type("Vae", (), {"config": Config(scaling_factor=0.5)})
        scheduler = type("Scheduler", (), {"alphas_cumprod": torch.linspace(0.99, 0.01, 10),
                                           "config": Config(prediction_type="epsilon")})

    model = DiffusersModel.of_pipeline(Pipeline)
    assert model.latent_scale == 0.5 and len(model.schedule) == 10
    assert DiffusersModel(unet()).latent_scale == 0.13025


def test_adapters_positions_are_five():
    """input_blocks 4-5 | 7-8 | middle | output_blocks 0-2 | 3-5, as SDXL's file has them."""
    found = [[site.path.split(".transformer")[0] for site in stage[:1]][0]
             for stage in stages(BACKEND.sites(DiffusersModel(unet())))]
    assert found == ["input_blocks.4.1", "input_blocks.7.1", "middle_block.1", "output_blocks.0.1", "output_blocks.3.1"]


@pytest.mark.parametrize("methods", [{"gather-swap": {"group": 2, "chunk": 1}}, {"rave": {"grid": 2}},
                                     {"stam": {}, "ffam": {"ratio": 2}}], ids=str)  # fmt: skip
def test_sampling_a_clip_with_prompts_a_frame(methods):
    """Each frame with its own pooled text: cut with its frame wherever rows are taken apart."""
    model, prompts = DiffusersModel(unet()), 1 if "rave" in methods else 3
    for method, config in methods.items():
        model = BACKEND.attach(model, build(method, BACKEND.sites(model), config))
    sigmas = model.schedule.ddim_sigmas(2)
    out = BACKEND.sample(model, conditioning(1, prompts, **SIZES), conditioning(2), 3.0, clip(), sigmas, Quiet())
    assert out.shape == clip().shape and out.isfinite().all()


def test_tuning_sees_pooled_text_and_sizes():
    model = DiffusersModel(unet())
    for method in ("norm-tune",):
        model = BACKEND.attach(model, build_on(BACKEND, model, method, {}))
    recipe = TuneRecipe(steps=2, learning_rate=1e-3, queries=False)
    losses = [tune(BACKEND, model, clip(), given, recipe, progress=Quiet()).losses
              for given in (conditioning(1, **SIZES), conditioning(1))]  # fmt: skip
    assert all(a != b for a, b in zip(*losses, strict=True))
