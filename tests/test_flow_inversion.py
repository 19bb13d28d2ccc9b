"""A flow's inversion against the exact solution for Gaussian data, and the noise that goes with a path."""

from __future__ import annotations

import pytest
import torch
from steadyedit.diffusion.inversion import flow_inversion
from steadyedit.diffusion.trajectory import FlowPath
from steadyedit.methods.trajectory_store import path_of_latent, with_flow_path
from steadyedit.methods.via.source_path import PathNoise, noise_at_top
from tolerances import FLOAT64

MEAN, SPREAD = 0.2, 0.7


def width(sigma):
    return ((1 - sigma) ** 2 * SPREAD**2 + sigma**2) ** 0.5


def denoise(x, sigma):
    """E[x_0 | x_sigma] of data N(MEAN, SPREAD^2)."""
    s = sigma.view(-1, 1, 1, 1)
    return MEAN + (1 - s) * SPREAD**2 / width(s) ** 2 * (x - (1 - s) * MEAN)


def exact(x, sigma):
    """The solution of d x / d sigma = (x - D) / sigma from x at 0: a quantile stays a quantile."""
    return (1 - sigma) * MEAN + (x - MEAN) * width(sigma) / SPREAD


def clip():
    return torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("top", [1.0, 0.8])
def test_it_comes_closer_by_the_square_of_the_step(top):
    errors = []
    for steps in (8, 16, 32, 64):
        levels = torch.linspace(0, 1, steps + 1, dtype=torch.float64) ** 1.5 * top
        path = flow_inversion(denoise, clip(), levels)
        assert len(path) == steps + 1 and torch.equal(path[0], clip())
        errors.append(max((x - exact(clip(), s)).abs().max().item() for x, s in zip(path, levels)))
    assert all(first / second > 3.3 for first, second in zip(errors, errors[1:])), errors


def test_levels_that_do_not_rise_from_0_are_told():
    for levels in ([0.0], [0.1, 0.5], [1.0, 0.5, 0.0], [0.0, 0.5, 0.5]):
        with pytest.raises(ValueError, match="sigmas: the inversion needs them ascending from 0"):
            flow_inversion(denoise, clip(), torch.tensor(levels))


@pytest.mark.parametrize("sigma", [1.0, 0.3])
def test_adding_the_noise_of_a_path_gives_its_top(sigma):
    x, x0 = torch.randn(2, *clip().shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    eps = noise_at_top(x, x0, sigma)
    assert ((1 - sigma) * x0 + sigma * eps - x).abs().max() < FLOAT64


def test_rows_share_their_noise_or_do_not():
    latent = {"samples": clip()}
    shared, own = PathNoise(3).generate_noise(latent), PathNoise(3, shared=False).generate_noise(latent)
    assert torch.equal(shared[0], shared[1]) and not torch.equal(own[0], own[1])
    with pytest.raises(ValueError, match="latent_image: .2, 3, 4, 5. is another shape than the .1, 3, 4, 5."):
        PathNoise(3, inverted=clip()[:1]).generate_noise(latent)


def test_a_path_rides_in_a_latent_that_nobody_changed():
    latent = with_flow_path({"samples": clip()})
    path = path_of_latent(latent)
    assert isinstance(path, FlowPath) and torch.equal(path.source, clip().float()) and path.step_of(0.37) == 0.37
    with pytest.raises(ValueError, match="inverted: was changed after Source Path"):
        path_of_latent({**latent, "samples": clip().flip(-1)})
    with pytest.raises(ValueError, match="inverted: holds no trajectory"):
        path_of_latent({"samples": clip()})
