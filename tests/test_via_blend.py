"""VIA's boundary blend around samplers, on a model whose exact solution is known."""

from __future__ import annotations

import pytest
import torch
from steadyedit.backends.diffusers.blend import BlendedSampler
from steadyedit.diffusion.inversion import ddim_inversion
from steadyedit.diffusion.samplers import (
    SAMPLERS,
    sample_dpmpp_2m,
    sample_euler,
    sample_euler_ancestral,
    sample_heun,
    seeded_noise,
)
from steadyedit.diffusion.trajectory import Trajectory
from steadyedit.kernels.boundary_blend import boundary_blend_reference, ramp_weight
from steadyedit.methods.reference_rows import sample_with_rows
from steadyedit.methods.via.blend import MODES, BoundaryBlend, blended
from steadyedit.methods.via.latent_mask import keep_mask
from steadyedit.methods.via.response import measure
from tolerances import FLOAT32_STEP, FLOAT64_CHAIN

FRAMES, SHAPE, SCALE = 3, (3, 4, 6, 5), 0.18215
SPREAD = 1.3


def model(x, sigma, **extra_args):
    """The ideal denoiser of Gaussian data of mean 0.2; neighbouring columns are not mixed."""
    share = SPREAD**2 / (SPREAD**2 + sigma.view(-1, 1, 1, 1) ** 2)
    return 0.2 + share * (x - 0.2)


def solution(x, sigma):
    """The exact end of the trajectory through x at sigma."""
    return 0.2 + (x - 0.2) * SPREAD / (SPREAD**2 + sigma**2) ** 0.5


def ladder(steps, top=6.0):
    levels = torch.linspace(top**0.5, 0.1**0.5, steps, dtype=torch.float64) ** 2
    return torch.cat([levels, levels.new_zeros(1)])


def drawn(seed=0, shape=SHAPE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def edges(columns=2):
    """Keep the left columns."""
    keep = torch.zeros(1, 1, *SHAPE[2:])
    keep[..., :columns] = 1
    return keep


def prepared(steps=6, keep=None, **settings):
    """A blend whose source is another clip than the one that is sampled, and the levels."""
    sigmas = ladder(steps)
    path = ddim_inversion(model, drawn(1), sigmas.flip(0))
    latents = [x / SCALE for x in path]
    return BoundaryBlend(Trajectory(latents, sigmas.flip(0)), edges() if keep is None else keep, **settings), sigmas


def with_blend(sampler, blend, literal=False):
    return blended(sampler, blend, literal=literal, to_model_space=lambda model: lambda x: x * SCALE,
                   frame_ids=lambda extra: extra.get("frame_ids"))  # fmt: skip


def overwritten(blend, x, sigmas, step):
    """z after ``step`` steps by the equation, mixed by hand."""
    steps = len(sigmas) - 1
    if blend.mode == "last step only" and step < steps:
        return x
    ramp = {"ramp": blend.ramp or steps}.get(blend.mode, 1)
    w, keep = ramp_weight(step, ramp), blend.keep.double()
    weight = w * keep if blend.reading == "A" else 1 - w * (1 - keep)
    source = blend.trajectory.steps[len(sigmas) - 1 - step].float().double() * SCALE
    return boundary_blend_reference(x, source, weight)


SETTINGS = [
    {"mode": mode, "reading": reading, "ramp": ramp}
    for mode in MODES for reading in "AB" for ramp in ((0, 3) if mode == "ramp" else (0,))
]  # fmt: skip


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("soft", [False, True])
def test_euler_is_mixed_after_every_step_in_both_forms(settings, soft):
    keep = torch.linspace(0, 1, 5).expand(1, 1, 6, 5) if soft else None
    blend, sigmas = prepared(keep=keep, **settings)
    start = expected = 6 * drawn(2)
    for t in range(1, len(sigmas)):
        slope = (expected - model(expected, sigmas[t - 1] * torch.ones(FRAMES))) / sigmas[t - 1]
        expected = overwritten(blend, expected + (sigmas[t] - sigmas[t - 1]) * slope, sigmas, t)
    for literal in (True, False):
        result = with_blend(sample_euler, blend, literal)(model, start, sigmas)
        assert (result - expected).abs().max() < FLOAT32_STEP * expected.abs().max(), literal


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_heun_is_the_same_in_both_forms(settings):
    blend, sigmas = prepared(**settings)
    results = [with_blend(sample_heun, blend, literal)(model, 6 * drawn(2), sigmas) for literal in (True, False)]
    assert (results[0] - results[1]).abs().max() < FLOAT64_CHAIN


def test_dpmpp_2m_keeps_its_memory_while_its_state_is_mixed():
    blend, sigmas = prepared()
    x, last = 6 * drawn(2), None
    for t in range(1, len(sigmas)):
        sigma, target = sigmas[t - 1], sigmas[t]
        denoised = solved = model(x, sigma * torch.ones(FRAMES))
        if last is not None and target > 0:
            solved = denoised + (denoised - last) / (2 * (sigmas[t - 2] / sigma).log() / (sigma / target).log())
        x = overwritten(blend, target / sigma * x + (1 - target / sigma) * solved, sigmas, t)
        last = denoised
    result = with_blend(sample_dpmpp_2m, blend)(model, 6 * drawn(2), sigmas)
    assert (result - x).abs().max() < FLOAT32_STEP
    pairs = with_blend(sample_dpmpp_2m, blend, literal=True)(model, 6 * drawn(2), sigmas)
    assert (pairs - x).abs().max() > 1e-3, "two levels at a time, it would be Euler's method"


def test_ancestral_noise_is_drawn_once_a_step():
    blend, sigmas = prepared()
    x, noise = 6 * drawn(2), seeded_noise(drawn(), 5)
    for t in range(1, len(sigmas)):
        x = sample_euler_ancestral(model, x, sigmas[t - 1 : t + 1], noise_sampler=noise)
        x = overwritten(blend, x, sigmas, t)
    result = with_blend(sample_euler_ancestral, blend)(model, 6 * drawn(2), sigmas, {"seed": 5})
    assert (result - x).abs().max() < FLOAT32_STEP
    pairs = with_blend(sample_euler_ancestral, blend, literal=True)(model, 6 * drawn(2), sigmas, {"seed": 5})
    assert (pairs - x).abs().max() > 1e-2, "two levels at a time, every step would draw the same noise"


@pytest.mark.parametrize("name", SAMPLERS)
def test_where_nothing_is_kept_the_sampler_is_undisturbed(name):
    blend, sigmas = prepared(keep=torch.zeros(1, 1, 6, 5))
    plain = SAMPLERS[name](model, 6 * drawn(2), sigmas, {"seed": 3})
    result = with_blend(SAMPLERS[name], blend)(model, 6 * drawn(2), sigmas, {"seed": 3})
    assert torch.equal(result, plain)


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_is_edited_is_undisturbed_where_frames_and_places_are_apart(name):
    blend, sigmas = prepared()
    plain = SAMPLERS[name](model, 6 * drawn(2), sigmas, {"seed": 3})
    result = with_blend(SAMPLERS[name], blend)(model, 6 * drawn(2), sigmas, {"seed": 3})
    assert torch.equal(result[..., 2:], plain[..., 2:])


@pytest.mark.parametrize(("sampler", "order"), [(sample_euler, 1), (sample_dpmpp_2m, 2), (sample_heun, 2)])
def test_the_order_of_convergence_is_the_samplers_own(sampler, order):
    errors = []
    for steps in (40, 80):
        blend, sigmas = prepared(steps)
        seen = {}

        def watch(state, seen=seen, last=steps - 1):
            if state["i"] == last:
                seen["x"] = state["x"]

        with_blend(sampler, blend)(model, 6 * drawn(2), sigmas, callback=watch)
        errors.append((solution(seen["x"], sigmas[-2]) - solution(6 * drawn(2), sigmas[0]))[..., 2:].abs().max())
    rate = torch.log2(errors[0] / errors[1])
    assert rate == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("reading", ["A", "B"])
def test_the_model_sees_the_source_and_the_end_is_the_source(name, reading):
    blend, sigmas = prepared(mode="no ramp", reading=reading)
    seen = []

    def watched(x, sigma, **extra_args):
        seen.append((float(sigma[0]), x))
        return model(x, sigma)

    result = with_blend(SAMPLERS[name], blend)(watched, 6 * drawn(2), sigmas, {"seed": 3})
    for step in range(1, len(sigmas) - 1):
        state = [x for sigma, x in seen if sigma == float(sigmas[step])][-1]
        source = (blend.trajectory.steps[len(sigmas) - 1 - step].float() * SCALE).double()
        assert torch.equal(state[..., :2], source[..., :2])
    latents = blend.restore((result / SCALE).float(), sigmas)
    assert torch.equal(latents[..., :2], blend.trajectory.source.float()[..., :2])
    assert torch.equal(latents[..., 2:], (result / SCALE).float()[..., 2:])


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "euler_ancestral"])
def test_lanes_follow_their_own_frames(name):
    keep = keep_mask(torch.eye(3)[:, :, None].repeat_interleave(16, 1).repeat(1, 1, 40), FRAMES, 6, 5)
    blend, sigmas = prepared(keep=keep)
    alone = with_blend(SAMPLERS[name], blend, name == "euler")(model, 6 * drawn(2), sigmas, {"seed": 4})
    rows = []

    def watched(x, sigma, frame_ids, sample_sigmas, **extra_args):
        rows.append(x)
        assert frame_ids == (0, 1, 2, 0, 2) and len(sample_sigmas) == len(sigmas)
        return model(x, sigma)

    sampler = with_blend(SAMPLERS[name], blend, name == "euler")
    together = sample_with_rows((0, 2), sampler, watched, 6 * drawn(2), sigmas, {"seed": 4})
    assert torch.equal(together, alone)
    assert all(torch.equal(x[3:], x[[0, 2]]) for x in rows)


def test_callbacks_count_the_steps_and_show_the_result():
    for literal in (True, False):
        blend, sigmas = prepared()
        told = []
        with_blend(sample_euler, blend, literal)(model, 6 * drawn(2), sigmas, callback=told.append)
        assert [state["i"] for state in told] == list(range(6))
        shown = told[-1]["denoised"][..., :2]
        assert torch.allclose(shown, blend.trajectory.source[..., :2] * SCALE, atol=FLOAT32_STEP)


def test_what_carries_a_change():
    sigmas = ladder(5)
    for name in ("euler", "dpmpp_2m", "heun"):
        response = measure(SAMPLERS[name], model, sigmas, {})
        at = [r for r, t in zip(response.calls, response.completed, strict=True) if t]
        assert at == pytest.approx((sigmas[1:-1] / sigmas[0]).tolist())
        assert response.end == pytest.approx(0)
    # Noise takes the place of a part of x.
    response = measure(sample_euler_ancestral, model, sigmas, {"seed": 1})
    assert response.calls == pytest.approx(((sigmas[:-1] / sigmas[0]) ** 2).tolist())


def test_random_numbers_are_left_alone():
    blend, sigmas = prepared()
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    with_blend(sample_euler_ancestral, blend)(model, 6 * drawn(2), sigmas, {"seed": 1})
    assert torch.equal(torch.rand(1), expected)


def wandering(model, x, sigmas, extra_args=None, callback=None, disable=None):
    """Stops between the levels."""
    return sample_euler(model, x, sigmas * 1.1, extra_args, callback)


def test_bad_input_is_told():
    blend, sigmas = prepared()
    start = drawn(2)

    def message(blend=blend, sampler=sample_euler, x=start, sigmas=sigmas, **extra_args):
        with pytest.raises(ValueError) as caught:
            with_blend(sampler, blend)(model, x, sigmas, extra_args)
        assert str(caught.value).count(". ") == 0
        return str(caught.value)

    assert "carries a noise mask" in message(denoise_mask=torch.ones(1))
    assert "2 frames" in message(x=start[:2])
    assert "connect the inversion of this clip" in message(x=drawn(shape=(3, 4, 6, 6)))
    assert "passes noise level" in message(sigmas=ladder(7))
    assert "ramp_steps: 9 is more than the 6" in message(blend=prepared(ramp=9)[0])
    assert "wandering does not stop at the noise levels" in message(sampler=wandering)
    assert "has a Boundary Blend already" in message(sampler=with_blend(sample_euler, blend))
    with pytest.raises(ValueError, match="has a Boundary Blend already"):
        BlendedSampler(BlendedSampler("euler", blend), blend)
    with pytest.raises(ValueError, match="does not fit"):
        BoundaryBlend(blend.trajectory, torch.ones(2, 1, 6, 5))
    with pytest.raises(ValueError, match="'C'"):
        BoundaryBlend(blend.trajectory, blend.keep, reading="C")


def test_masks_become_cells():
    mask = torch.zeros(2, 16, 24)
    mask[0, :8, :12] = 1
    keep = keep_mask(mask, 2, 2, 3)
    assert keep[:, 0].tolist() == [[[0, 0.5, 1], [1, 1, 1]], [[1, 1, 1], [1, 1, 1]]]
    assert keep_mask(mask, 2, 2, 3, soft=False)[0, 0, 0].tolist() == [0, 0, 1]
    # Another size, by area; pictures that a VAE cut to whole cells.
    assert torch.equal(keep_mask(mask.repeat_interleave(3, 1).repeat_interleave(3, 2), 2, 2, 3), keep)
    assert keep_mask(torch.ones(1, 19, 26), 5, 2, 3).shape == (1, 1, 2, 3)
    for wrong, said in [
        (mask, "nor one for each of the 3 frames"), (torch.zeros(3, 16, 24), "is empty"),
        (torch.full((3, 16, 24), torch.nan), "NaN"), (torch.ones(3, 24, 16), "other proportions"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=said):
            keep_mask(wrong, 3, 2, 3)
