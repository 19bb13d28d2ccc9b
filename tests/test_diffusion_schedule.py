"""The noise schedule, against its closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from steadyedit.diffusion.schedule import DiscreteSchedule, named_sigmas
from tolerances import FLOAT64, NETWORK, assert_close


@pytest.fixture(scope="module")
def schedule():
    return DiscreteSchedule.scaled_linear()


def test_scaled_linear_is_stable_diffusions(schedule):
    product = 1.0
    for t in range(1000):
        beta = (math.sqrt(0.00085) + t / 999 * (math.sqrt(0.012) - math.sqrt(0.00085))) ** 2
        product *= 1 - beta
        assert schedule.alphas_cumprod[t].item() == pytest.approx(product, rel=FLOAT64)
    # The two ends that every Stable Diffusion 1.x sampler prints.
    assert schedule.sigmas[0].item() == pytest.approx(0.0292, abs=NETWORK)
    assert schedule.sigmas[-1].item() == pytest.approx(14.6146, abs=NETWORK)


def test_timestep_and_sigma_are_inverse(schedule):
    every = torch.arange(1000)
    assert schedule.timestep(schedule.sigma(every)).equal(every)
    halfway = schedule.sigma(torch.tensor([10.5]))
    assert_close(halfway, (schedule.sigmas[10] * schedule.sigmas[11]).sqrt().view(1))
    assert schedule.timestep(torch.tensor([[1e9, 1e-9]])).tolist() == [[999, 0]]


@pytest.mark.parametrize("timestep", [torch.tensor(0), torch.tensor(999), torch.tensor([3, 500])], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_noise_goes_in_and_out(schedule, timestep, dtype):
    clean, noise = torch.randn(2, 2, 4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    alpha = schedule.alphas_cumprod[timestep].view(-1, 1, 1, 1)
    noisy = schedule.add_noise(clean.to(dtype), noise.to(dtype), timestep)
    assert noisy.dtype == dtype
    assert_close(noisy, alpha**0.5 * clean + (1 - alpha) ** 0.5 * noise)
    # Dividing by sqrt(abar) = 0.068 at the last timestep enlarges the rounding.
    assert_close(schedule.remove_noise(noisy, noise.to(dtype), timestep) / 20, clean / 20)


@pytest.mark.parametrize("steps", [1, 4, 30, 50, 999])
def test_ddim_sigmas_follow_the_hosts_rule(schedule, steps):
    expected, index = [0.0], 1
    while index < 1000:
        expected.append(schedule.sigmas[index].item())
        index += max(1000 // steps, 1)
    sigmas = schedule.ddim_sigmas(steps)
    assert sigmas.dtype == torch.float32
    assert_close(sigmas, torch.tensor(expected[::-1], dtype=torch.float64))
    if 1000 % steps == 0:
        assert len(sigmas) == steps + 1


@pytest.mark.parametrize("steps", [0, 1000])
def test_impossible_steps_are_refused(schedule, steps):
    with pytest.raises(ValueError, match=f"steps: expected 1 to 999, but got {steps}"):
        schedule.ddim_sigmas(steps)


def test_an_empty_latent_gets_all_of_the_largest_level_s_noise(schedule):
    """sqrt(1 + sigma^2) at the largest sigma, a rounding of it, and above; sigma itself below."""
    noise, largest = torch.ones(2, 3, dtype=torch.float64), float(schedule.sigmas[-1])
    for sigma in (largest, largest * (1 - 1e-6), largest * (1 + 1e-6), 2 * largest):
        assert_close(schedule.starting_noise(noise, sigma), noise * math.sqrt(1 + sigma**2))
    for sigma in (0.999 * largest, 1.0):
        assert_close(schedule.starting_noise(noise, sigma), noise * sigma)


@pytest.mark.parametrize("scheduler, times", [
    ("normal", [999, 666, 333, 0]),
    ("sgm_uniform", [999, 749.25, 499.5, 249.75]),
    ("simple", [999, 749, 499, 249]),
])  # fmt: skip
def test_schedulers_end_where_the_hosts_end(schedule, scheduler, times):
    """Timesteps by hand: "normal" reaches timestep 0 before sigma 0, "sgm_uniform" and "simple" do not."""
    found = named_sigmas(schedule, scheduler, 4)
    expected = [*(float(schedule.sigma(torch.tensor(float(t)))) for t in times), 0.0]
    assert found.tolist() == pytest.approx(expected, rel=NETWORK)
    # The last half of eight steps.
    assert torch.equal(named_sigmas(schedule, scheduler, 4, 0.5), named_sigmas(schedule, scheduler, 8)[-5:])
