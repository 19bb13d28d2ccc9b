"""Standalone's stand-ins for core nodes give what the host's own nodes give."""

from __future__ import annotations

import comfy_extras.nodes_custom_sampler as host
import pytest
import torch
from comfy_extras import nodes_ip2p
from steadyedit.backends.comfy_native import toy
from steadyedit.backends.diffusers.encoders import Autoencoder
from steadyedit.backends.diffusers.model import DiffusersModel
from steadyedit.standalone import core_nodes, core_sampling
from steadyedit.toyworld import models
from tolerances import FLOAT32, FLOAT32_NEAREST, RUN
from toys import diffusers_unet, model, text

FRAMES = 3
OURS = {**core_nodes.NODES, **core_sampling.NODES}


def ours(name, **inputs):
    return OURS[name].execute(**inputs).args


def theirs(name, **inputs):
    with torch.inference_mode():
        return getattr(host, name).execute(**inputs).args


def latent(value: float = 0.0, **more):
    return {"samples": torch.full((FRAMES, 4, 8, 8), value), **more}


def hosts(name):
    """The host's class, of the modules loaded here; None of the others."""
    return next((getattr(m, name) for m in (host, nodes_ip2p) if hasattr(m, name)), None)


@pytest.mark.parametrize("name", [name for name in sorted(OURS) if hasattr(hosts(name), "GET_SCHEMA")])
def test_inputs_are_the_hosts(name):
    expected = {wanted.id for wanted in hosts(name).GET_SCHEMA().inputs}
    assert {wanted.id for wanted in OURS[name].GET_SCHEMA().inputs} <= expected


@pytest.mark.parametrize("scheduler", core_sampling.SCHEDULERS)
@pytest.mark.parametrize(("steps", "denoise"), [(1, 1.0), (7, 1.0), (20, 1.0), (8, 0.4), (5, 0.0)])
def test_sigmas(scheduler, steps, denoise):
    inputs = {"scheduler": scheduler, "steps": steps, "denoise": denoise}
    (expected,) = theirs("BasicScheduler", model=model(), **inputs)
    (found,) = ours("BasicScheduler", model=DiffusersModel(diffusers_unet()), **inputs)
    torch.testing.assert_close(found, expected, rtol=FLOAT32, atol=FLOAT32_NEAREST)


@pytest.mark.parametrize("index", [None, [0, 0, 0], [2, 0, 2]])
def test_noise(index):
    given = latent() if index is None else latent(batch_index=index)
    expected = theirs("RandomNoise", noise_seed=11)[0].generate_noise(given)
    assert torch.equal(ours("RandomNoise", noise_seed=11)[0].for_latent(given), expected)


@pytest.mark.parametrize(("start", "length", "expected"), [
    (0, 1, [0]), (3, 9, [3, 4]), (-2, 1, [3]), (-9, 2, [0, 1]), (7, 1, [4])])  # fmt: skip
def test_pictures_of_a_batch(start, length, expected):
    """Read off the host's ImageFromBatch, whose module needs a running server."""
    images = torch.rand(5, 8, 8, 3)
    assert torch.equal(ours("ImageFromBatch", image=images, batch_index=start, length=length)[0], images[expected])


def test_instruct_pix2pix_conditioning():
    torch.manual_seed(1)
    vae, images = models.build_vae().eval(), torch.rand(2, 36, 44, 3)
    inputs = {"positive": text(1), "negative": text(2), "pixels": images}
    expected = nodes_ip2p.InstructPixToPixConditioning.execute(vae=toy.vae_from(vae.state_dict()), **inputs).args
    found = ours("InstructPixToPixConditioning", vae=Autoencoder(vae), **inputs)
    assert torch.equal(found[2]["samples"], expected[2]["samples"])
    for a, b in zip(found[:2], expected[:2]):
        assert torch.equal(a[0][0], b[0][0])
        torch.testing.assert_close(a[0][1]["concat_latent_image"], b[0][1]["concat_latent_image"], rtol=0, atol=RUN)


DUAL = {"cond1": text(1), "cond2": text(2), "negative": text(3)}
GUIDERS = {
    "basic": ("BasicGuider", {"conditioning": text(1)}),
    "cfg": ("CFGGuider", {"positive": text(1), "negative": text(2), "cfg": 4.0}),
    "dual": ("DualCFGGuider", {**DUAL, "cfg_conds": 3.0, "cfg_cond2_negative": 1.5, "style": "regular"}),
    "nested": ("DualCFGGuider", {**DUAL, "cfg_conds": 3.0, "cfg_cond2_negative": 1.5, "style": "nested"}),
    "no negative": ("DualCFGGuider", {**DUAL, "cfg_conds": 3.0, "cfg_cond2_negative": 1.0, "style": "regular"}),
}  # fmt: skip


@pytest.mark.parametrize(("guider", "sampler", "denoise"), [
    ("basic", "ddim", 1.0), ("cfg", "euler", 0.5), ("dual", "euler", 1.0), ("nested", "euler_ancestral", 1.0),
    ("no negative", "dpmpp_2m", 0.7)])  # fmt: skip
def test_sampling(guider, sampler, denoise):
    name, inputs = GUIDERS[guider]
    results = []
    for call, patcher in ((theirs, model()), (ours, DiffusersModel(diffusers_unet()))):
        (sigmas,) = call("BasicScheduler", model=patcher, scheduler="normal", steps=3, denoise=denoise)
        results.append(call(
            "SamplerCustomAdvanced", noise=call("RandomNoise", noise_seed=5)[0],
            guider=call(name, model=patcher, **inputs)[0], sigmas=sigmas,
            sampler=call("KSamplerSelect", sampler_name=sampler)[0], latent_image=latent(0.7)))
    for expected, found in zip(*results):
        scale = expected["samples"].abs().max().clamp(min=1)
        assert (found["samples"] - expected["samples"]).abs().max() < RUN * scale
