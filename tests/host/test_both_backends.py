"""One method, two backends: ComfyUI's MODEL and a diffusers U-Net with the same weights give the same numbers."""

from __future__ import annotations

import pytest
import torch
from steadyedit.backends.diffusers import DiffusersBackend, DiffusersModel
from steadyedit.diffusion.samplers import SAMPLERS
from steadyedit.diffusion.trajectory import Trajectory
from steadyedit.methods.registry import build
from steadyedit.methods.tuning import TuneRecipe, apply_tuned, tune
from steadyedit.methods.via.blend import BoundaryBlend
from tolerances import FLOAT32, RUN
from toys import BACKEND, METHODS, Quiet, assert_close, clip, diffusers_unet, model, moved, text

OTHER = DiffusersBackend()
PAIRS = [("stam", "ffam"), ("temporal-attention", "sparse-causal"), ("simda",)]


def both(*methods):
    """(backend, MODEL) twice, with the same methods attached."""
    found = []
    for backend, value in ((BACKEND, model()), (OTHER, DiffusersModel(diffusers_unet()))):
        for method in methods:
            value = backend.attach(value, moved(build(method, backend.sites(value), METHODS[method])))
        found.append((backend, value))
    return found


def test_sites_schedule_and_fingerprint():
    (here, a), (there, b) = both()
    assert here.sites(a) == there.sites(b)
    assert here.fingerprint(a) == there.fingerprint(b)
    first, second = here.schedule(a), there.schedule(b)
    assert torch.allclose(first.alphas_cumprod, second.alphas_cumprod, rtol=FLOAT32)
    assert torch.allclose(first.ddim_sigmas(50), second.ddim_sigmas(50), rtol=FLOAT32)
    x = torch.randn(1, 4, 2, 2)
    assert torch.allclose(here.to_model_space(a, x), there.to_model_space(b, x))
    assert torch.allclose(here.from_model_space(a, x), there.from_model_space(b, x))


@pytest.mark.parametrize("methods", PAIRS)
def test_inversion_and_sampling(methods):
    sigmas = OTHER.schedule(both()[1][1]).ddim_sigmas(4)
    inverted, sampled = [], []
    for backend, value in both(*methods):
        path = backend.invert(value, text(1), clip(), sigmas.flip(0), 1, Quiet())
        assert len(path) == len(sigmas)
        inverted.append(path)
        sampled.append(backend.sample(value, text(1), text(2), 4.0, path[-1], sigmas, Quiet()))
    for here, there in zip(*inverted, strict=True):
        assert_close(here, there, RUN)
    assert_close(*sampled, 1e-3)


@pytest.mark.once
@pytest.mark.parametrize("settings", [None, {"group": 2}, {"group": 3, "blocks": "up", "start": 0.25}], ids=str)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_dual_guidance_and_gather_swap(sampler, settings):
    """Noise that a sampler draws is the same from the same seed; lanes take that of their frames."""
    results, per_frame = [], text(1, 3)
    for backend, value in both():
        if settings is not None:
            value = backend.attach(value, build("gather-swap", backend.sites(value), settings))
        sigmas = OTHER.schedule(both()[1][1]).ddim_sigmas(4)
        results.append(backend.sample(value, per_frame, text(2), 4.0, 5 * sigmas[0] * clip(), sigmas, Quiet(),
                                      sampler=sampler, seed=3, middle=text(3), middle_guidance=1.5))
    assert results[0].shape == clip().shape
    assert_close(*results, 1e-3)


def test_a_function_is_a_sampler_too():
    sigmas = OTHER.schedule(both()[1][1]).ddim_sigmas(4)
    for backend, value in both():
        named, given = (backend.sample(value, text(1), text(2), 4.0, clip(), sigmas, Quiet(), sampler=sampler)
                        for sampler in ("heun", SAMPLERS["heun"]))
        assert_close(named, given, RUN)


def test_inversion_leaves_gather_swap_out():
    sigmas = OTHER.schedule(both()[1][1]).ddim_sigmas(4).flip(0)
    for backend, value in both():
        swapped = backend.attach(value, build("gather-swap", backend.sites(value), {"group": 2}))
        paths = [backend.invert(m, text(1), clip(), sigmas, 0, Quiet()) for m in (value, swapped)]
        assert all(a.equal(b) for a, b in zip(*paths, strict=True))


def test_refinement_comes_closer():
    """Inverted and sampled back at guidance 1, each refinement lessens the error."""
    patcher = model()
    sigmas = BACKEND.schedule(patcher).ddim_sigmas(5)
    errors = []
    for refinement in (0, 2):
        path = BACKEND.invert(patcher, text(1), clip(), sigmas.flip(0), refinement, Quiet())
        back = BACKEND.sample(patcher, text(1), text(2), 1.0, path[-1], sigmas, Quiet())
        errors.append((back - clip()).square().mean().item())
    assert errors[1] < errors[0]


def test_a_cancel_stops_inversion_at_once():
    import comfy.model_management

    patcher, bar = model(), Quiet(2, comfy.model_management.InterruptProcessingException)
    sigmas = BACKEND.schedule(patcher).ddim_sigmas(20).flip(0)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        BACKEND.invert(patcher, text(1), clip(), sigmas, 0, bar)
    assert bar.values == [1, 2]


def test_tuning_and_its_weights_move_between_hosts():
    """Three steps on both: the same losses, and the weights of one sample the same on the other."""
    recipe = TuneRecipe(steps=3, learning_rate=1e-3)
    tuned = [
        tune(backend, value, clip(), text(1), recipe, progress=Quiet(), preview_every=2)
        for backend, value in both("stam", "ffam")
    ]
    assert tuned[0].losses == pytest.approx(tuned[1].losses, rel=RUN)
    (here, a), (there, b) = both()
    sigmas = there.schedule(b).ddim_sigmas(3)
    weights = tuned[1].weights
    first = here.sample(apply_tuned(here, a, weights), text(1), text(2), 4.0, clip(), sigmas, Quiet())
    second = there.sample(tuned[1].model, text(1), text(2), 4.0, clip(), sigmas, Quiet())
    assert_close(first, second, RUN)


@pytest.mark.parametrize(("sampler", "swap"), [("heun", False), ("euler_ancestral", False), ("dpmpp_2m", True)])
def test_boundary_blend(sampler, swap):
    sigmas = OTHER.schedule(both()[1][1]).ddim_sigmas(4)
    path = OTHER.invert(both()[1][1], text(2), clip(), sigmas.flip(0), 0, Quiet())
    keep = torch.linspace(-0.5, 1.5, clip().shape[-1]).clamp(0, 1).expand(1, 1, *clip().shape[2:])
    blend, results = BoundaryBlend(Trajectory(path, sigmas.flip(0)), keep), []
    for backend, value in both():
        if swap:
            value = backend.attach(value, build("gather-swap", backend.sites(value), {"group": 2}))
        results.append(backend.sample(value, text(1), text(2), 4.0, 5 * sigmas[0] * clip(seed=6), sigmas, Quiet(),
                                      sampler=backend.blend_sampler(sampler, blend), seed=3))
        assert torch.equal(results[-1][..., -2:], clip()[..., -2:])
    assert_close(*results, 1e-3)
