"""DDIM sampling and inversion in sigma space, against DDIM as its paper writes it in x_t."""

from __future__ import annotations

import pytest
import torch
from steadyedit.diffusion.inversion import ddim_inversion
from steadyedit.diffusion.sampling import guided, sample_euler
from steadyedit.diffusion.schedule import DiscreteSchedule
from tolerances import FLOAT64_CHAIN, assert_close

SCHEDULE = DiscreteSchedule.scaled_linear()
STEPS = 10


def eps_theta(x_t, t):
    """A smooth, nonlinear stand-in for a U-Net in the variance-preserving scale."""
    return torch.tanh(0.7 * x_t + 0.1 * x_t.roll(1, -1)) + 0.2 * torch.sin(t / 150)


def denoiser(x, sigma, shift=0.0):
    """The same in k-diffusion's convention."""
    wide = sigma.view(-1, *[1] * (x.ndim - 1))
    t = SCHEDULE.timestep(sigma).view(wide.shape).double()
    return x - wide * eps_theta(x / (1 + wide**2).sqrt(), t) + shift


def timesteps():
    """Ascending timesteps of the host's "ddim_uniform"."""
    return list(range(1, 1000, 1000 // STEPS))


def abar(t):
    return SCHEDULE.alphas_cumprod[t] if t is not None else torch.ones((), dtype=torch.float64)


def ddim_move(x_t, eps, here, there):
    """Equation 12 of Song et al. 2021 with eta 0, in either direction; None is the clean end."""
    x_0 = (x_t - (1 - abar(here)).sqrt() * eps) / abar(here).sqrt()
    return abar(there).sqrt() * x_0 + (1 - abar(there)).sqrt() * eps


@pytest.fixture
def clean():
    return torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def sigmas():
    return torch.cat([SCHEDULE.sigmas[timesteps()].flip(0), torch.zeros(1, dtype=torch.float64)])


def test_sampling_is_ddim(clean, sigmas):
    x_t = clean
    descending = [*reversed(timesteps()), None]
    for here, there in zip(descending, descending[1:], strict=False):
        x_t = ddim_move(x_t, eps_theta(x_t, torch.tensor(here).double()), here, there)
    start = clean * (1 + sigmas[0] ** 2).sqrt()
    assert_close(sample_euler(denoiser, start, sigmas), x_t)


def test_inversion_evaluates_at_the_target(clean, sigmas):
    x_t, expected = clean, [clean]
    ascending = [None, *timesteps()]
    for here, there in zip(ascending, ascending[1:], strict=False):
        x_t = ddim_move(x_t, eps_theta(x_t, torch.tensor(there).double()), here, there)
        expected.append(x_t / abar(there).sqrt())
    trajectory = ddim_inversion(denoiser, clean, sigmas.flip(0))
    assert len(trajectory) == STEPS + 1
    for actual, wanted in zip(trajectory, expected, strict=True):
        assert_close(actual, wanted)


def test_refinement_approaches_the_exact_inverse(clean, sigmas):
    errors = []
    for refinement in (0, 1, 3, 40):
        top = ddim_inversion(denoiser, clean, sigmas.flip(0), refinement=refinement)[-1]
        errors.append((sample_euler(denoiser, top, sigmas) - clean).abs().max().item())
    assert errors[0] > errors[1] > errors[2] > errors[3]
    assert errors[3] < FLOAT64_CHAIN


@pytest.mark.parametrize("refinement", [0, 2])
def test_every_step_is_reported(clean, sigmas, refinement):
    seen, calls = [], []

    def counted(x, sigma, **extra):
        calls.append(sigma)
        return denoiser(x, sigma, **extra)

    trajectory = ddim_inversion(counted, clean, sigmas.flip(0), {"shift": 0.0}, seen.append, refinement=refinement)
    assert [state["i"] for state in seen] == list(range(STEPS))
    assert all(state["x"] is x for state, x in zip(seen, trajectory[1:], strict=True))
    assert len(calls) == STEPS * (refinement + 1)
    assert all(sigma.shape == (3,) for sigma in calls)
    seen.clear()
    sample_euler(denoiser, clean, sigmas, {"shift": 0.0}, seen.append)
    assert [state["i"] for state in seen] == list(range(STEPS))


def test_inversion_leaves_its_input(clean, sigmas):
    before = clean.clone()
    trajectory = ddim_inversion(denoiser, clean, sigmas.flip(0))
    assert clean.equal(before) and trajectory[0] is clean


@pytest.mark.parametrize("wrong", [[3.0, 1.0, 0.0], [-0.5, 1.0], [0.0, 1.0, 1.0], [0.0]])
def test_inversion_refuses_other_sigmas(clean, wrong):
    with pytest.raises(ValueError, match="needs them ascending"):
        ddim_inversion(denoiser, clean, torch.tensor(wrong))


def test_guidance(clean):
    sigma = torch.full((3,), 2.0, dtype=torch.float64)

    def shifted(x, sigma):
        return denoiser(x, sigma, shift=0.5)

    mixed = guided(denoiser, shifted, 7.5)(clean, sigma)
    positive, negative = denoiser(clean, sigma), shifted(clean, sigma)
    assert_close(mixed, negative + 7.5 * (positive - negative))
    assert guided(denoiser, shifted, 1) is denoiser
    assert guided(denoiser, None, 7.5) is denoiser
