"""Training of a few tensors inside a frozen U-Net on one clip, by the plain diffusion loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import huber_loss, mse_loss

from .flow import RectifiedFlow
from .schedule import DiscreteSchedule

PredictNoise = Callable[[Tensor, Tensor], Tensor]
LOSSES = ("mse", "huber")


class Together(Protocol):
    """The processes of one training: ``size`` of them, of which this is number ``rank``."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Put the sum over all processes into each tensor."""

    def first(self, value: Any) -> Any:
        """What the first process gives here."""


class NoiseTraining:
    """min over parameters of E || eps - eps_theta(x_t, t) ||^2, AdamW, one clip or batch a step.

    One timestep per step for the whole clip, uniform over the schedule, or one for every sample
    of a batch; noise drawn apart for every frame. All randomness comes from one generator of its
    own, whose state is part of ``state()``: a run that is resumed draws what the uninterrupted one would have drawn.

    Args:
        parameters: float32 leaves by name; they are changed in place.
        schedule: the U-Net's noise schedule, or a rectified flow: what is predicted is its target then.
        learning_rate, betas, weight_decay: of AdamW.
        max_grad_norm: the joint gradient norm is clipped to it.
        seed: of the generator.
        per_sample: draw a timestep for every sample; else one for all, as frames of one clip need.
        loss: "mse", or "huber" (DAPE, equation 4): r^2 / 2 for a residual |r| <= delta, delta (|r| - delta / 2)
            beyond; the mean over all elements.
        delta: of the Huber loss.

    Raises:
        ValueError: there are no parameters, an unknown loss, or a delta that is not positive.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        schedule: DiscreteSchedule | RectifiedFlow,
        *,
        learning_rate: float,
        betas: tuple[float, float],
        weight_decay: float,
        max_grad_norm: float,
        seed: int,
        per_sample: bool = False,
        loss: str = "mse",
        delta: float = 1.0,
    ) -> None:
        if not parameters:
            raise ValueError(
                "training: the model holds nothing to train; attach a method with weights or tune queries."
            )
        check_loss(loss, delta)
        # Sorted, so that the optimizer's numbering in a checkpoint does not hang on a host's order.
        self.parameters = {name: parameters[name] for name in sorted(parameters)}
        self.schedule = schedule
        self.max_grad_norm = max_grad_norm
        self.per_sample = per_sample
        self.residual = partial(huber_loss, delta=delta) if loss == "huber" else mse_loss
        self.optimizer = torch.optim.AdamW(
            list(self.parameters.values()), lr=learning_rate, betas=betas, weight_decay=weight_decay
        )
        self.generator = torch.Generator().manual_seed(seed)
        self.losses: list[float] = []

    def step(self, predict_noise: PredictNoise, clean: Tensor) -> float:
        """``step_of`` one sample.

        Args:
            predict_noise: eps_theta(x_t, t), or a flow's v_theta(x_sigma, sigma), differentiable in the parameters.
            clean: x_0, [frames, channels, height, width], float32, the model's latent scale; of a flow any shape.
        """
        return self.step_of([(predict_noise, clean)])

    def step_of(self, samples: Sequence[tuple[PredictNoise, Tensor]], together: Together | None = None) -> float:
        """One step of the optimizer on the mean loss of some samples; returns that.

        Nothing has changed if it raises: not the parameters, not the generator.

        Args:
            samples: as ``step`` takes one; the same in all processes.
            together: processes that share them out, each of which draws the noise of all. None: this one alone.

        Raises:
            FloatingPointError: the loss or its gradient is not finite.
        """
        before = self.generator.get_state()
        try:
            self.optimizer.zero_grad(set_to_none=True)
            value = 0.0
            for number, (predict_noise, clean) in enumerate(samples):
                shape = clean.shape[:1] if self.per_sample else ()
                timestep = self.schedule.draw(shape, self.generator)
                noise = torch.randn(clean.shape, generator=self.generator).to(clean)
                if together is not None and number % together.size != together.rank:
                    continue
                noisy = self.schedule.add_noise(clean, noise, timestep)
                target = self.schedule.target(clean, noise)
                loss = self.residual(predict_noise(noisy, timestep.to(clean.device)).to(target), target) / len(samples)
                value += loss.item()
                if together is None:
                    self._check_loss(value)
                loss.backward()
            if together is not None:
                value = self._added_up(value, together)
                self._check_loss(value)
            # Clipping scales by the norm: one gradient that is not finite would make every parameter so.
            norm = float(torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.max_grad_norm))
            if not math.isfinite(norm):
                raise FloatingPointError(f"training: the gradient's norm is {norm} at step {len(self.losses) + 1}; try "
                                         "a lower learning rate.")
        except BaseException:
            self.generator.set_state(before)
            raise
        self.optimizer.step()
        self.losses.append(value)
        return value

    def _check_loss(self, value: float) -> None:
        if not math.isfinite(value):
            raise FloatingPointError(
                f"training: the loss is {value} at step {len(self.losses) + 1}; try a lower learning rate."
            )

    def _added_up(self, loss: float, together: Together) -> float:
        """Gradients, in place, and loss of all processes."""
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        total = torch.tensor([loss], dtype=torch.float64)
        together.add_up([*gradients, total])
        return float(total)

    def state(self) -> dict[str, Any]:
        """Everything that a bit-exact continuation needs, as plain data and copied tensors."""
        return {
            "parameters": {name: p.detach().cpu().clone() for name, p in self.parameters.items()},
            "optimizer": _copied(self.optimizer.state_dict()),
            "generator": self.generator.get_state(),
            "losses": list(self.losses),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state()``.

        Raises:
            ValueError: it belongs to other parameters.
        """
        saved = state["parameters"]
        if saved.keys() != self.parameters.keys() or any(
            saved[name].shape != p.shape for name, p in self.parameters.items()
        ):
            raise ValueError("checkpoint: it was made for other parameters than the ones to train.")
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(saved[name])
        self.optimizer.load_state_dict(_copied(state["optimizer"]))
        self.generator.set_state(state["generator"])
        self.losses = list(state["losses"])


def check_loss(loss: str, delta: float) -> None:
    """Raise ValueError unless this is a loss that ``NoiseTraining`` knows."""
    if loss not in LOSSES:
        raise ValueError(f"loss: expected one of {', '.join(LOSSES)}, but got {loss!r}.")
    if not delta > 0:
        raise ValueError(f"delta: expected a number above 0, but got {delta}.")


def _copied(value: Any) -> Any:
    """A deep copy on the CPU: AdamW's own state dict shares its moments with the optimizer."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(item) for item in value)
    return value
