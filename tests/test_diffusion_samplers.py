"""Samplers against their papers' equations, written out independently."""

from __future__ import annotations

import pytest
import torch
from steadyedit.diffusion.samplers import SAMPLERS, seeded_noise
from tolerances import assert_close

WIDE = {"dtype": torch.float64}
SIGMAS = torch.tensor([14.6, 8.0, 5.5, 2.0, 0.9, 0.3, 0.0], **WIDE)


def denoiser(x, sigma, shift=0.0):
    """Smooth and nonlinear; row by row."""
    wide = sigma.view(-1, 1, 1)
    return torch.tanh(x / (1 + wide)) + 0.1 * torch.sin(x.roll(1, -1)) / (1 + wide) + shift


def slope(x, sigma):
    return (x - denoiser(x, sigma.expand(len(x)))) / sigma


@pytest.fixture
def start():
    return 14.6 * torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0), **WIDE)


def test_ddim_is_euler():
    assert SAMPLERS["ddim"] is SAMPLERS["euler"]


def test_heun_is_the_trapezoidal_rule(start):
    x, calls = start, []
    for here, there in zip(SIGMAS[:-1], SIGMAS[1:], strict=True):
        first = slope(x, here)
        if there == 0:
            x = x - here * first
        else:
            x = x + (there - here) * 0.5 * (first + slope(x + (there - here) * first, there))

    def counted(x, sigma):
        calls.append(sigma[0].item())
        return denoiser(x, sigma)

    assert_close(SAMPLERS["heun"](counted, start, SIGMAS), x)
    expected = [s for pair in zip(SIGMAS[:-2], SIGMAS[1:-1], strict=True) for s in pair]
    assert calls == [*expected, SIGMAS[-2]]


def test_dpmpp_2m_is_algorithm_2(start):
    """In the paper's variables: lambda = log(alpha / sigma_vp) = -log(s), h = lambda_next - lambda."""
    x, history = start, []
    for i in range(len(SIGMAS) - 1):
        here, there = SIGMAS[i], SIGMAS[i + 1]
        history.append(denoiser(x, here.expand(3)))
        if there == 0:
            x = history[-1]
            continue
        h = here.log() - there.log()
        solution = history[-1]
        if i:
            r = (SIGMAS[i - 1].log() - here.log()) / h
            solution = (1 + 1 / (2 * r)) * history[-1] - 1 / (2 * r) * history[-2]
        x = there / here * x - torch.expm1(-h) * solution
    assert_close(SAMPLERS["dpmpp_2m"](denoiser, start, SIGMAS), x)


def test_euler_ancestral_goes_below_and_back_up(start):
    noises = torch.randn(len(SIGMAS), *start.shape, generator=torch.Generator().manual_seed(1), **WIDE)
    x = start
    for i, (here, there) in enumerate(zip(SIGMAS[:-1], SIGMAS[1:], strict=True)):
        up = (there**2 * (here**2 - there**2) / here**2).sqrt()
        down = (there**2 - up**2).sqrt()
        x = x + (down - here) * slope(x, here) + up * noises[i]
    given = iter(noises)
    assert_close(SAMPLERS["euler_ancestral"](denoiser, start, SIGMAS, noise_sampler=lambda *_: next(given)), x)


def test_euler_ancestral_without_eta_is_ddim(start):
    assert_close(
        SAMPLERS["euler_ancestral"](denoiser, start, SIGMAS, eta=0.0), SAMPLERS["ddim"](denoiser, start, SIGMAS)
    )


def test_euler_ancestral_takes_the_seed_of_the_run(start):
    def run(seed):
        return SAMPLERS["euler_ancestral"](lambda x, s, seed: denoiser(x, s), start, SIGMAS, {"seed": seed})

    assert run(3).equal(run(3)) and not run(3).equal(run(4))
    initial = torch.randn(start.shape, generator=torch.Generator().manual_seed(3), **WIDE)
    assert not seeded_noise(start, 3)(SIGMAS[0], SIGMAS[1]).equal(initial)


@pytest.mark.parametrize("name", SAMPLERS)
def test_rows_go_their_own_way(start, name):
    """A row of a batch ends where it ends alone: lanes beside a clip do not change it."""
    noise = torch.randn(start.shape, generator=torch.Generator().manual_seed(2), **WIDE)

    def run(rows):
        options = {"noise_sampler": lambda *_: noise[rows]} if name == "euler_ancestral" else {}
        return SAMPLERS[name](denoiser, start[rows], SIGMAS, **options)

    assert_close(run(slice(0, 3))[1:], run(slice(1, 3)))


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_step_is_reported_once(start, name):
    seen = []
    SAMPLERS[name](denoiser, start, SIGMAS, {"shift": 0.5}, seen.append, True)
    assert [state["i"] for state in seen] == list(range(len(SIGMAS) - 1))
    assert all(state["sigma"] == sigma for state, sigma in zip(seen, SIGMAS, strict=False))
    assert_close(seen[0]["denoised"], denoiser(start, SIGMAS[:1].expand(3), 0.5))


@pytest.mark.parametrize("name", SAMPLERS)
def test_narrow_types_stay(start, name):
    """Sigmas come in float32 or float64; the result has the type of x."""
    out = SAMPLERS[name](denoiser, start.float(), SIGMAS)
    assert out.dtype == torch.float32 and out.isfinite().all()
