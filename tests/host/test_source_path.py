"""Boundary Blend on the host's flow models: along the clip's own path, and along its inversion."""

from __future__ import annotations

import comfy.samplers
import narrow_flow
import pytest
import torch
from comfy_extras.nodes_custom_sampler import BasicScheduler, CFGGuider, SamplerCustomAdvanced
from narrow_flow import latent, text
from steadyedit.nodes.blend import BoundaryBlend
from steadyedit.nodes.inversion import DDIMInversion
from steadyedit.nodes.source_path import SourcePath
from tolerances import NETWORK
from toys import assert_untouched, clip, model, traces, weights
from toys import text as unet_text

STEPS, SEED, CFG = 5, 3, 2.5
FRAMES, VIDEO = (3, 16, 4, 6), (1, 16, 3, 4, 6)


def sigmas_of(patcher, steps=STEPS, denoise=1.0):
    return BasicScheduler.execute(patcher, "simple", steps, denoise)[0]


def path_of(patcher, samples, way="exact", shared=True, sigmas=None, conditioning=None):
    with torch.inference_mode():
        return SourcePath.execute(patcher, {"samples": samples}, way, SEED, shared, sigmas, conditioning).args


def half(frames=1, width=48):
    mask = torch.zeros(frames, 32, width)
    mask[..., 24:] = 1
    return mask


def node(sampler, inverted, mask, **settings):
    settings = {"blend": "ramp", "reading": "A", "ramp_steps": 0, "soft_mask": True} | settings
    return BoundaryBlend.execute(comfy.samplers.sampler_object(sampler), inverted, mask, **settings)[0]


def sampled(patcher, inverted, noise, sampler, sigmas=None, positive=None, negative=None):
    guider = CFGGuider.execute(patcher, positive or text(1), negative or text(2), CFG)[0]
    sampler = comfy.samplers.sampler_object(sampler) if isinstance(sampler, str) else sampler
    sigmas = sigmas_of(patcher) if sigmas is None else sigmas
    with torch.inference_mode():
        return SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas.clone(), inverted)[0]["samples"]


def predict(patcher, x, sigma):
    """The guided velocity by the bare network."""
    def one(seed):
        ((words, extra),) = text(seed)
        rows = len(x)
        if x.ndim == 5:
            return patcher.model.diffusion_model(x.float(), torch.tensor([1000.0 * sigma]), words).double()
        return patcher.model.diffusion_model(
            x.float(), torch.full((rows,), sigma), words.expand(rows, -1, -1), extra["pooled_output"].expand(rows, -1),
            torch.full((rows,), 3.5)).double()

    return one(2) + CFG * (one(1) - one(2))


@pytest.mark.parametrize(("patcher", "shape"), [(narrow_flow.flux, FRAMES), (narrow_flow.wan, VIDEO)])
@pytest.mark.parametrize("settings", [{}, {"reading": "B", "ramp_steps": 2}, {"blend": "no ramp"},
                                      {"blend": "last step only"}])
def test_euler_is_the_equation_written_out(patcher, shape, settings):
    """In float64 around the network: x_sigma of the source with the sampler's own noise, mixed after each step."""
    patcher, samples = patcher(), latent(*shape)
    inverted, noise = path_of(patcher, samples)
    found = sampled(patcher, inverted, noise, node("euler", inverted, half(), **settings))
    t, x0 = sigmas_of(patcher).double().tolist(), patcher.model.process_latent_in(samples).double()
    eps = noise.generate_noise(inverted).double()
    if shape == FRAMES:
        assert torch.equal(eps[0], eps[2])
    keep = torch.ones(shape[-2:], dtype=torch.float64)
    keep[:, 3:] = 0
    x, ramp = eps, {"ramp": settings.get("ramp_steps") or STEPS, "no ramp": 1}.get(settings.get("blend", "ramp"))
    for i in range(STEPS):
        x = x + (t[i + 1] - t[i]) * predict(patcher, x, t[i])
        if ramp is None and i + 1 < STEPS:
            continue
        w = 1.0 if ramp is None else min((i + 1) / ramp, 1.0)
        source = (1 - t[i + 1]) * x0 + t[i + 1] * eps
        of_source = 1 - w * (1 - keep) if settings.get("reading") == "B" else w * keep
        x = of_source * source + (1 - of_source) * x
    expected = patcher.model.process_latent_out(x.float())
    assert (found - expected).abs().max() < NETWORK * expected.abs().max()
    assert torch.equal(found[..., :3], samples[..., :3]) and not torch.equal(found[..., 3:], samples[..., 3:])


@pytest.mark.parametrize("name", ["heun", "dpmpp_2m", "uni_pc", "euler_ancestral", "dpmpp_sde", "res_multistep", "lcm"])
def test_samplers_keep_the_source_and_edit_as_they_would(name):
    patcher, samples = narrow_flow.flux(), latent(*FRAMES)
    inverted, noise = path_of(patcher, samples)
    found = sampled(patcher, inverted, noise, node(name, inverted, half()))
    assert torch.equal(found[..., :3], samples[..., :3]) and torch.isfinite(found).all()
    if name == "uni_pc":  # alone it lifts the last of the sigmas that it is given, and the host scales by that
        return
    everywhere = sampled(patcher, inverted, noise, node(name, inverted, torch.ones(1, 32, 48)))
    plain = sampled(patcher, inverted, noise, name)
    assert (everywhere - plain).abs().max() < NETWORK * plain.abs().max()


def test_an_edit_may_begin_in_the_middle_and_masks_may_move():
    patcher, samples = narrow_flow.wan(), latent(*VIDEO)
    inverted, noise = path_of(patcher, samples)
    mask = torch.zeros(9, 32, 48)
    mask[6, :, 24:] = 1
    found = sampled(patcher, inverted, noise, node("euler", inverted, mask), sigmas_of(patcher, denoise=0.6))
    assert torch.equal(found[:, :, :2], samples[:, :, :2]) and torch.equal(found[..., :3], samples[..., :3])
    assert not torch.equal(found[:, :, 2, :, 3:], samples[:, :, 2, :, 3:])


def test_the_inverted_noise_is_the_midpoint_rule_written_out():
    patcher, samples = narrow_flow.wan(), latent(*VIDEO)
    sigmas = sigmas_of(patcher)
    inverted, noise = path_of(patcher, samples, "inverted", sigmas=sigmas, conditioning=text(1))
    x, t = patcher.model.process_latent_in(samples).double(), sigmas.double().flip(0).tolist()

    def v(x, sigma):
        network = patcher.model.diffusion_model
        return network(x.float(), torch.tensor([1000.0 * sigma]), text(1)[0][0]).double()

    for i in range(STEPS):
        middle = (t[i] + t[i + 1]) / 2
        x = x + (t[i + 1] - t[i]) * v(x + (middle - t[i]) * v(x, t[i] or middle), middle)
    assert sigmas[0] == 1 and (noise.generate_noise(inverted) - x).abs().max() < NETWORK * x.abs().max()
    mixed = sampled(patcher, inverted, noise, node("euler", inverted, half()), sigmas)
    assert torch.equal(mixed[..., :3], samples[..., :3]) and torch.isfinite(mixed).all()


def test_the_model_is_left_as_it_was():
    patcher, samples = narrow_flow.flux(), latent(*FRAMES)
    before, marks = weights(patcher), traces(patcher)
    inverted, noise = path_of(patcher, samples)
    first = sampled(patcher, inverted, noise, node("euler", inverted, half()))
    path_of(patcher, samples, "inverted", sigmas=sigmas_of(patcher), conditioning=text(1))
    assert torch.equal(sampled(patcher, inverted, noise, node("euler", inverted, half())), first)
    assert_untouched(patcher, before, marks)


def test_bad_input_is_told():
    patcher, samples = narrow_flow.flux(), latent(*FRAMES)
    inverted, noise = path_of(patcher, samples)
    with pytest.raises(TypeError, match="model: Source Path needs a flow model, such as Wan"):
        path_of(model(), clip())
    levels = sigmas_of(patcher)
    for changes, said in [({}, "sigmas: the inverted way needs"), ({"sigmas": levels}, "conditioning: the"),
                          ({"sigmas": levels[:-1], "conditioning": text(1)}, "sigmas: the inversion needs")]:
        with pytest.raises(ValueError, match=said):
            path_of(patcher, samples, "inverted", **changes)
    with pytest.raises(ValueError, match="latent: carries a noise mask"), torch.inference_mode():
        SourcePath.execute(patcher, {"samples": samples, "noise_mask": half()}, "exact", 0, True)
    with pytest.raises(ValueError, match="inverted: was changed after Source Path"):
        node("euler", {**inverted, "samples": samples.flip(-1)}, half())
    with pytest.raises(ValueError, match="mask: 2 masks do not fit a latent of 3 frames"):
        node("euler", path_of(narrow_flow.wan(), latent(*VIDEO))[0], half(2))
    # The path of a flow on another model, and the clip of another path.
    unet = path_of(patcher, latent(3, 4, 8, 8))[0]
    with pytest.raises(ValueError, match="inverted: is a flow model.s path from Source Path, but this model"):
        sampled(model(), unet, noise, node("euler", unet, half(1, 32)), torch.tensor([5.0, 1.0, 0.0]), unet_text(1),
                unet_text(2))
    with pytest.raises(ValueError, match="connect the inversion of this clip"):
        sampled(patcher, path_of(patcher, samples[:2])[0], noise, node("euler", inverted, half()))
    with pytest.raises(TypeError, match="model: this needs a U-Net"), torch.inference_mode():
        DDIMInversion.execute(patcher, text(1), {"samples": samples}, 5, 0)
