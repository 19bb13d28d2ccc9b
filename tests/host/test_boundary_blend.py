"""Boundary Blend on the host's samplers and guiders, and Composite Edit."""

from __future__ import annotations

import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_custom_sampler import SamplerCustom
from steadyedit.backends.comfy_native.blend import SINGLE_STEP, blend_sampler, is_single_step
from steadyedit.methods.registry import build
from steadyedit.methods.trajectory_store import of_latent
from steadyedit.methods.via.blend import BoundaryBlend, blended
from steadyedit.nodes import blend as nodes
from steadyedit.nodes.inversion import DDIMInversion
from tolerances import FLOAT32, NETWORK
from toys import BACKEND, Quiet, assert_untouched, clip, model, text, traces, weights

FRAMES, SIDE, STEPS, SPREAD = 3, 8, 5, 0.9
OWN_LEVELS = {"dpm_fast", "dpm_adaptive"}
NAMES = [name for name in comfy.samplers.SAMPLER_NAMES if name not in OWN_LEVELS]


def pointwise():
    """The host's MODEL with the ideal denoiser of Gaussian data for a U-Net, which leaves places apart."""
    patcher = model()

    def denoise(apply_model, arguments):
        x, sigma = arguments["input"], arguments["timestep"].view(-1, 1, 1, 1)
        return 0.2 + SPREAD**2 / (SPREAD**2 + sigma**2) * (x - 0.2)

    patcher.set_model_unet_function_wrapper(denoise)
    return patcher


def inverted(patcher, steps=STEPS, samples=None):
    samples = clip(FRAMES) * 5 if samples is None else samples
    with torch.inference_mode():
        return DDIMInversion.execute(patcher, text(2), {"samples": samples}, steps, 0).args


def half(value=1.0):
    """Edit the right half of the picture."""
    mask = torch.zeros(1, 8 * SIDE, 8 * SIDE)
    mask[..., 4 * SIDE :] = value
    return mask


def sampled(patcher, sampler, latent, sigmas, add_noise=True, cfg=7.5):
    """SamplerCustom, from other noise than the inversion's, so that nothing meets by accident."""
    if isinstance(sampler, str):
        sampler = comfy.samplers.sampler_object(sampler)
    with torch.inference_mode():
        # A copy: on a CPU uni_pc overwrites the last of the noise levels that it is given.
        out = SamplerCustom.execute(patcher, add_noise, 11, cfg, text(1), text(2), sampler, sigmas.clone(), latent)
    return [part["samples"] for part in out.args]


def node(sampler, latent, mask, **settings):
    if isinstance(sampler, str):
        sampler = comfy.samplers.sampler_object(sampler)
    settings = {"blend": "ramp", "reading": "A", "ramp_steps": 0, "soft_mask": True} | settings
    with torch.inference_mode():
        return nodes.BoundaryBlend.execute(sampler, latent, mask, **settings)[0]


@pytest.mark.parametrize("name", NAMES)
def test_every_sampler_keeps_the_source_and_edits_as_it_would(name):
    patcher = pointwise()
    latent, sigmas = inverted(patcher)
    plain, _ = sampled(patcher, name, latent, sigmas)
    for settings in ({}, {"reading": "B", "ramp_steps": 2}, {"blend": "last step only"}):
        result, shown = sampled(patcher, node(name, latent, half(), **settings), latent, sigmas)
        assert torch.equal(result[..., : SIDE // 2], latent["steadyedit_source"][..., : SIDE // 2])
        assert torch.allclose(shown[..., : SIDE // 2], latent["steadyedit_source"][..., : SIDE // 2], atol=FLOAT32)
        if settings.get("reading") != "B":
            # Two levels at a time, euler computes the same numbers; others round here and there.
            assert (result - plain)[..., SIDE // 2 :].abs().max() <= 2 * FLOAT32 * plain.abs().max()
    everywhere, _ = sampled(patcher, through(name, latent, torch.ones(1, SIDE, SIDE)), latent, sigmas)
    assert torch.equal(everywhere, plain)


def through(name, latent, mask, **settings):
    """The form through the denoiser, also for samplers that do not need it."""
    sampler = comfy.samplers.sampler_object(name)
    blend = BoundaryBlend(of_latent(latent), 1 - mask[None], **settings)
    mixed = blended(sampler.sampler_function, blend, literal=False, frame_ids=lambda extra: None,
                    to_model_space=lambda model: model.inner_model.inner_model.process_latent_in)  # fmt: skip
    return comfy.samplers.KSAMPLER(mixed, sampler.extra_options, sampler.inpaint_options)


@pytest.mark.parametrize("name", [*SINGLE_STEP, "ddim"])
@pytest.mark.parametrize("reading", ["A", "B"])
def test_both_forms_agree_where_a_sampler_has_both(name, reading):
    patcher = pointwise()
    latent, sigmas = inverted(patcher)
    mask = torch.linspace(0, 1, SIDE).expand(1, SIDE, SIDE)
    literal = node(name, latent, mask.repeat_interleave(8, 1).repeat_interleave(8, 2), reading=reading)
    first, _ = sampled(patcher, literal, latent, sigmas)
    second, _ = sampled(patcher, through(name, latent, mask, reading=reading), latent, sigmas)
    assert (first - second).abs().max() < FLOAT32 * first.abs().max()


def test_which_samplers_run_step_by_step():
    sampler = comfy.samplers.ksampler
    literal = {n for n in comfy.samplers.KSAMPLER_NAMES if is_single_step(sampler(n).sampler_function, {})}
    assert literal == set(SINGLE_STEP)
    # Churn depends on how many steps a run has.
    assert not is_single_step(sampler("euler").sampler_function, {"s_churn": 1.0})


@pytest.mark.parametrize("name", ["dpmpp_2m", "lms", "uni_pc", "dpmpp_sde", "sa_solver_pece", "euler_cfg_pp"])
def test_the_model_sees_the_source_at_every_noise_level(name):
    patcher = pointwise()
    latent, sigmas = inverted(patcher)
    seen = {}
    denoise = patcher.model_options["model_function_wrapper"]

    def watched(apply_model, arguments):
        seen[float(arguments["timestep"][0])] = arguments["input"][:FRAMES]
        return denoise(apply_model, arguments)

    patcher.set_model_unet_function_wrapper(watched)
    sampled(patcher, node(name, latent, half(), blend="no ramp"), latent, sigmas)
    for step in range(1, STEPS):
        state = next(x for sigma, x in seen.items() if abs(sigma / float(sigmas[step]) - 1) < FLOAT32)
        source = patcher.model.process_latent_in(latent["steadyedit_trajectory"][STEPS - step].float())
        assert torch.allclose(state[..., : SIDE // 2], source[..., : SIDE // 2], rtol=FLOAT32, atol=FLOAT32)


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "dpmpp_2m_sde"])
def test_with_lanes_of_gather_swap(name):
    patcher = model()
    latent, sigmas = inverted(patcher, 3)
    edited = BACKEND.attach(patcher, build("gather-swap", BACKEND.sites(patcher), {"group": 2}))
    mask = torch.zeros(FRAMES, 64, 64)
    for i in range(FRAMES):
        mask[i, 8 * i : 8 * i + 24, 16:40] = 1
    result, _ = sampled(edited, node(name, latent, mask), latent, sigmas, add_noise=False)
    kept = torch.nn.functional.max_pool2d(mask[:, None], 8).expand_as(result) == 0
    assert torch.equal(result[kept], latent["steadyedit_source"][kept])
    assert not torch.equal(result[~kept], latent["steadyedit_source"][~kept])


def test_nothing_stays_behind_on_the_model():
    patcher = model()
    before, marks = weights(patcher), traces(patcher)
    latent, sigmas = inverted(patcher, 2)
    attributes = set(vars(patcher.model))
    sampler = node("dpmpp_2m", latent, half())
    sampled(patcher, sampler, latent, sigmas, cfg=1.0)
    with pytest.raises(KeyboardInterrupt):
        BACKEND.sample(patcher, text(1), text(2), 1.0, latent["samples"], sigmas, Quiet(1), sampler=sampler)
    # Attributes that the host itself sets while it samples are there after any run.
    plain, _ = sampled(patcher, "euler", latent, sigmas, cfg=1.0)
    assert set(vars(patcher.model)) - attributes <= {"current_patcher", "latent_shapes"}
    assert torch.equal(plain, sampled(model(), "euler", latent, sigmas, cfg=1.0)[0])
    assert_untouched(patcher, before, marks)


def test_a_sampler_by_name_and_from_the_top_only():
    """``Backend.sample`` takes the blend; ended above noise level 0, the LATENT holds what is there."""
    patcher = pointwise()
    latent, sigmas = inverted(patcher)
    mixed = BACKEND.blend_sampler("euler", BoundaryBlend(of_latent(latent), torch.ones(1, 1, SIDE, SIDE)))
    whole = BACKEND.sample(patcher, text(1), text(2), 7.5, latent["samples"], sigmas, Quiet(), sampler=mixed)
    assert torch.equal(whole, latent["steadyedit_source"])
    part = BACKEND.sample(patcher, text(1), text(2), 7.5, latent["samples"], sigmas[:3], Quiet(), sampler=mixed)
    assert torch.allclose(part, latent["steadyedit_trajectory"][STEPS - 2].float(), rtol=FLOAT32, atol=NETWORK)


def test_bad_input_is_told():
    patcher = pointwise()
    latent, sigmas = inverted(patcher)
    for changes, said in [
        ({"mask": torch.zeros(1, 64, 64)}, "mask: is empty"),
        ({"mask": torch.ones(2, 64, 64)}, "nor one for each of the 3 frames"),
        ({"mask": torch.ones(1, 64, 128)}, "mask: 128x64 has other proportions"),
        ({"latent": {"samples": clip()}}, "inverted: holds no trajectory"),
        ({"latent": {**latent, "noise_mask": half()}}, "inverted: carries a noise mask"),
        ({"sampler": comfy.samplers.Sampler()}, "sampler: Sampler brings a loop of its own"),
    ]:
        with pytest.raises(ValueError, match=said):
            node(**{"sampler": "euler", "latent": latent, "mask": half(), **changes})
    blend = node("dpmpp_2m", latent, half())
    for changes, said in [
        ({"latent": {**latent, "noise_mask": half()}}, "latent_image: carries a noise mask"),
        ({"latent": {"samples": clip(2)}}, "latent_image: 2 frames"),
        ({"latent": {"samples": clip(side=16)}}, "connect the inversion of this clip"),
        ({"sigmas": sigmas * 1.01}, "sigmas: sampling passes noise level"),
        ({"sampler": node("euler", latent, half(), ramp_steps=STEPS + 1)}, "ramp_steps: 6 is more than the 5"),
        *(({"sampler": node(name, latent, half())}, f"sampler: {name} does not stop") for name in OWN_LEVELS),
    ]:
        with pytest.raises(ValueError, match=said):
            sampled(**{"patcher": patcher, "sampler": blend, "latent": latent, "sigmas": sigmas, **changes})


def test_the_sampler_that_comes_in_is_not_changed():
    sampler = comfy.samplers.sampler_object("heun")
    before = dict(vars(sampler))
    latent, _ = inverted(pointwise(), 2)
    mixed = blend_sampler(sampler, BoundaryBlend(of_latent(latent), torch.ones(1, 1, SIDE, SIDE)))
    assert vars(sampler) == before and mixed.sampler_function.__name__ == "sample_heun"


def test_composite():
    edited, original = torch.rand(2, FRAMES, 64, 64, 3)
    out = nodes.Composite.execute(edited, original, half(), 4, 0, False)[0]
    assert torch.equal(out[:, :, :28], original[:, :, :28]) and torch.equal(out[:, :, 32:], edited[:, :, 32:])
