"""The one-shot training loop: what it draws, computes and remembers."""

from __future__ import annotations

import pytest
import torch
from steadyedit.diffusion.schedule import DiscreteSchedule
from steadyedit.diffusion.training import NoiseTraining
from tolerances import NETWORK, assert_close

RECIPE = {"learning_rate": 1e-2, "betas": (0.9, 0.999), "weight_decay": 1e-2, "max_grad_norm": 1.0, "seed": 3}
SCHEDULE = DiscreteSchedule.scaled_linear()


def linear_model(seed=0):
    weight = torch.randn(4, 4, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    bias = torch.zeros(4, 1, 1, requires_grad=True)

    def predict(noisy, timestep):
        return torch.einsum("fchw,dc->fdhw", noisy, weight) + bias

    return {"weight": weight, "bias": bias}, predict


def clip():
    return torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(9))


def trained(steps, state=None):
    """Some steps on the linear model, from ``state`` or from the start."""
    parameters, predict = linear_model()
    training = NoiseTraining(parameters, SCHEDULE, **RECIPE)
    if state is not None:
        training.load_state(state)
    for _ in range(steps):
        training.step(predict, clip())
    return training


def test_loss_falls():
    losses = trained(60).losses
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


def test_resumed_equals_uninterrupted_bit_for_bit():
    whole, half = trained(7), trained(4)
    resumed = trained(3, half.state())
    assert resumed.losses == whole.losses
    for name, parameter in whole.parameters.items():
        assert parameter.equal(resumed.parameters[name])


def test_state_is_a_copy():
    parameters, predict = linear_model()
    training = NoiseTraining(parameters, SCHEDULE, **RECIPE)
    training.step(predict, clip())
    state = training.state()
    kept = {name: value.clone() for name, value in state["parameters"].items()}
    moments = [m["exp_avg"].clone() for m in state["optimizer"]["state"].values()]
    training.step(predict, clip())
    assert all(value.equal(kept[name]) for name, value in state["parameters"].items())
    for saved, kept_moment in zip(state["optimizer"]["state"].values(), moments, strict=True):
        assert saved["exp_avg"].equal(kept_moment)


def test_a_step_is_adamw_on_the_plain_noise_loss():
    """One step by hand: uniform timestep, i.i.d. noise, MSE, clipped gradient, AdamW."""
    parameters, predict = linear_model()
    wide = {name: p.detach().double().requires_grad_() for name, p in parameters.items()}
    training = NoiseTraining(parameters, SCHEDULE, **RECIPE)
    seen = {}

    def spy(noisy, timestep):
        seen.update(noisy=noisy.double(), timestep=timestep)
        return predict(noisy, timestep)

    loss = training.step(spy, clip())
    alpha = SCHEDULE.alphas_cumprod[seen["timestep"]]
    noise = (seen["noisy"] - alpha.sqrt() * clip().double()) / (1 - alpha).sqrt()
    assert abs(noise.mean()) < 0.2 and abs(noise.std() - 1) < 0.2
    assert not noise[0].allclose(noise[1])
    predicted = torch.einsum("fchw,dc->fdhw", seen["noisy"], wide["weight"]) + wide["bias"]
    expected = ((predicted - noise) ** 2).mean()
    assert loss == pytest.approx(expected.item(), rel=NETWORK)
    grads = dict(zip(wide, torch.autograd.grad(expected, list(wide.values())), strict=True))
    norm = sum((g**2).sum() for g in grads.values()).sqrt()
    for name, before in wide.items():
        clipped = grads[name] / max(norm.item() + 1e-6, 1.0)
        # First step of Adam: both bias corrections leave grad / |grad|.
        moved = before * (1 - 1e-2 * 1e-2) - 1e-2 * clipped / (clipped.abs() + 1e-8)
        assert_close(parameters[name].detach(), moved.detach(), torch.float32, name)


def test_timesteps_cover_the_schedule():
    parameters, predict = linear_model()
    training = NoiseTraining(parameters, SCHEDULE, **RECIPE)
    seen = []
    for _ in range(200):
        training.step(lambda noisy, t: (seen.append(t.item()), predict(noisy, t))[1], clip()[:1, :, :1, :1])
    assert min(seen) < 50 and max(seen) > 950 and len(set(seen)) > 150


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_step_never_happened(error):
    training = trained(2)
    before = training.state()

    def interrupted(noisy, timestep):
        raise error

    with pytest.raises(error):
        training.step(interrupted, clip())
    after = training.state()
    assert after["losses"] == before["losses"]
    assert after["generator"].equal(before["generator"])
    assert all(after["parameters"][n].equal(p) for n, p in before["parameters"].items())


def test_a_loss_that_is_not_finite_stops():
    training = trained(1)
    with pytest.raises(FloatingPointError, match="the loss is nan at step 2; try a lower learning rate"):
        training.step(lambda noisy, t: noisy * float("nan"), clip())


def test_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match="nothing to train"):
        NoiseTraining({}, SCHEDULE, **RECIPE)


def test_a_checkpoint_of_other_parameters_is_refused():
    state = trained(1).state()
    state["parameters"]["weight"] = torch.zeros(2, 2)
    with pytest.raises(ValueError, match="other parameters"):
        trained(0, state)


def test_weight_decay_shrinks_what_has_no_gradient():
    """AdamW's is decoupled: theta <- theta - lr wd theta beside the step."""
    schedule, parameter = DiscreteSchedule.scaled_linear(), torch.nn.Parameter(torch.full((3,), 2.0))
    training = NoiseTraining({"p": parameter}, schedule, learning_rate=0.1, betas=(0.9, 0.999), weight_decay=0.5,
                             max_grad_norm=1.0, seed=0)  # fmt: skip
    for _ in range(2):
        training.step(lambda noisy, timestep: noisy * 0 + (0 * parameter).sum(), torch.zeros(1, 4, 2, 2))
    assert torch.allclose(parameter, torch.full((3,), 2 * (1 - 0.1 * 0.5) ** 2))


def test_a_gradient_that_is_not_finite_changes_nothing():
    schedule, parameter = DiscreteSchedule.scaled_linear(), torch.nn.Parameter(torch.zeros(2))
    training = NoiseTraining({"p": parameter}, schedule, learning_rate=0.1, betas=(0.9, 0.999), weight_decay=0.0,
                             max_grad_norm=1.0, seed=0)  # fmt: skip
    before = training.generator.get_state()
    with pytest.raises(FloatingPointError, match="the gradient's norm is (nan|inf) at step 1"):
        # The square root's slope at 0 is infinite, its value 0.
        training.step(lambda noisy, timestep: noisy * 0 + parameter.sqrt().sum(), torch.zeros(1, 4, 2, 2))
    assert parameter.equal(torch.zeros(2)) and training.losses == [] and before.equal(training.generator.get_state())
