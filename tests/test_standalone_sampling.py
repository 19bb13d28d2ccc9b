"""The stand-ins for core nodes around sampling, wired as an InstructPix2Pix graph, without a host."""

from __future__ import annotations

import pytest
import torch
from steadyedit.backends.diffusers.model import DiffusersModel
from steadyedit.standalone.core_sampling import NODES
from steadyedit.toyworld import models
from tolerances import NETWORK


class Encoder:
    """A VAE that keeps one pixel in 64."""

    def encode(self, pixels):
        return pixels[:, ::8, ::8, [0, 1, 2, 0]].movedim(-1, 1)


def call(name, **inputs):
    return NODES[name].execute(**inputs).args


@pytest.fixture(scope="module")
def editor():
    torch.manual_seed(0)
    return DiffusersModel(models.BUILDERS["editor"]().eval().requires_grad_(False))


def edit(model, pictures, seed=1, **dual):
    told, silent = ([[torch.full((1, 77, 96), value), {}]] for value in (0.3, 0.0))
    cond1, cond2, latent = call(
        "InstructPixToPixConditioning", positive=told, negative=silent, vae=Encoder(), pixels=pictures)
    scales = {"cfg_conds": 3.0, "cfg_cond2_negative": 1.5, "style": "regular"} | dual
    (guider,) = call("DualCFGGuider", model=model, cond1=cond1, cond2=cond2, negative=silent, **scales)
    (sigmas,) = call("BasicScheduler", model=model, scheduler="sgm_uniform", steps=2, denoise=1.0)
    return call(
        "SamplerCustomAdvanced", noise=call("RandomNoise", noise_seed=seed)[0], guider=guider, sampler="euler",
        sigmas=sigmas, latent_image=call("LatentBatchSeedBehavior", samples=latent, seed_behavior="fixed")[0],
    )[0]["samples"]


def test_equal_frames_with_a_fixed_seed_stay_equal_and_the_picture_matters(editor):
    one, other = torch.rand(1, 64, 64, 3), torch.rand(1, 64, 64, 3)
    result = edit(editor, torch.cat([one, one, other]))
    torch.testing.assert_close(result[0], result[1], rtol=0, atol=NETWORK)
    assert (result[0] - result[2]).abs().max() > 1e-3


def test_nested_guidance_is_the_regular_one_at_the_product(editor):
    pictures = torch.rand(1, 64, 64, 3)
    nested = edit(editor, pictures, cfg_conds=2.0, style="nested")
    torch.testing.assert_close(nested, edit(editor, pictures, cfg_conds=3.0))


def test_a_noise_mask_is_refused(editor):
    guider = call("BasicGuider", model=editor, conditioning=[[torch.zeros(1, 77, 96), {}]])[0]
    latent = {"samples": torch.zeros(1, 4, 8, 8), "noise_mask": torch.ones(1, 64, 64)}
    with pytest.raises(ValueError, match="latent_image: it holds a noise mask"):
        call("SamplerCustomAdvanced", noise=call("DisableNoise")[0], guider=guider, sampler="euler",
             sigmas=torch.tensor([1.0, 0.0]), latent_image=latent)


def test_no_steps_change_nothing(editor):
    guider = call("BasicGuider", model=editor, conditioning=[[torch.zeros(1, 77, 96), {}]])[0]
    (sigmas,) = call("BasicScheduler", model=editor, scheduler="normal", steps=4, denoise=0.0)
    latent = {"samples": torch.ones(1, 4, 8, 8)}
    found = call("SamplerCustomAdvanced", noise=call("RandomNoise", noise_seed=0)[0], guider=guider, sampler="euler",
                 sigmas=sigmas, latent_image=latent)[0]
    assert torch.equal(found["samples"], latent["samples"])


def test_noise_that_is_given_is_the_one_that_is_drawn(editor):
    """As Streamed Edit and Edit in Windows give each window its part of the clip's."""
    from steadyedit.backends import current

    guider = call("BasicGuider", model=editor, conditioning=[[torch.zeros(1, 77, 96), {
        "concat_latent_image": torch.zeros(1, 4, 8, 8)}]])[0]  # fmt: skip
    sigmas, latent = torch.tensor([2.0, 0.0]), {"samples": torch.zeros(1, 4, 8, 8)}
    (noise,) = call("RandomNoise", noise_seed=3)
    drawn = call("SamplerCustomAdvanced", noise=noise, guider=guider, sampler="euler", sigmas=sigmas,
                 latent_image=latent)[0]["samples"]  # fmt: skip
    settings = (guider, noise.for_latent(latent), latent["samples"])
    assert torch.equal(current().guided(*settings, "euler", sigmas, 3, lambda step: None), drawn)
    with pytest.raises(ValueError, match="sampler: euler_ancestral draws new noise"):
        current().guided(*settings, "euler_ancestral", sigmas, 3, lambda step: None)
