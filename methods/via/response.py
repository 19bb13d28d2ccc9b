"""How a sampler carries a change of its state from call to call, measured on one number.

Samplers are affine in x for given predictions and noise: a change of the start arrives at each
later call scaled by a factor that is the sampler's own (sigma' / sigma for DDIM, DPM-Solver++
and other deterministic ones; less where noise replaces a part of x).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...diffusion.trajectory import SAME


@dataclass(frozen=True)
class Response:
    """What a change of 1 of the start has become.

    Args:
        calls: at each call of the denoiser.
        completed: for each call, how many steps its x has behind it; 0 for calls inside a step.
        end: in the result.
    """

    calls: tuple[float, ...]
    completed: tuple[int, ...]
    end: float


class _Recorder:
    """A denoiser that predicts nothing and writes down what it is asked."""

    def __init__(self, model: Any, sampler: Callable[..., Tensor], limit: int) -> None:
        self.model, self.sampler, self.limit = model, sampler, limit
        self.states: list[float] = []
        self.sigmas: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        if len(self.states) >= self.limit:
            raise _refusal(self.sampler)
        self.states.append(float(x.flatten()[0]))
        self.sigmas.append(float(sigma.flatten()[0]))
        nothing = torch.zeros_like(x)
        # CFG++ samplers take the unconditional prediction from the host's hook.
        for hook in extra_args.get("model_options", {}).get("sampler_post_cfg_function", ()):
            hook({"denoised": nothing, "cond_denoised": nothing, "uncond_denoised": nothing, "model_options": {}})
        return nothing


def measure(sampler: Callable[..., Tensor], model: Any, sigmas: Tensor, extra_args: dict[str, Any],
            dtype: torch.dtype = torch.float64, **options: Any) -> Response:
    """Run a sampler twice on one number, starting from 0 and from 1, with equal noise.

    Args:
        sampler: in k-diffusion's convention.
        model: asked for attributes only.
        sigmas: [steps + 1], descending.
        extra_args: of the run; its seed is used.
        dtype: of x in the run; some samplers take no other.
        options: further keywords of the sampler.

    Raises:
        ValueError: the sampler does not evaluate the model at each noise level of ``sigmas``.
    """
    if "noise_sampler" in inspect.signature(sampler).parameters:
        options["noise_sampler"] = lambda *levels: torch.zeros(1, 1, 1, 1, dtype=dtype)
    levels = sigmas.detach().cpu()
    recorders, ends = [], []
    for start in (0.0, 1.0):
        recorder = _Recorder(model, sampler, 20 * len(levels))
        arguments: dict[str, Any] = {"seed": extra_args.get("seed"), "model_options": {"transformer_options": {}}}
        x = torch.full((1, 1, 1, 1), start, dtype=dtype)
        # A sampler may draw from torch's own generator: equal for both, and unused afterwards.
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which would reseed every GPU as well.
            torch.default_generator.manual_seed(0)
            x = sampler(recorder, x, levels.clone(), extra_args=arguments, callback=None, disable=True, **options)
        recorders.append(recorder)
        ends.append(float(x.flatten()[0]))
    still, moved = recorders
    if still.sigmas != moved.sigmas:
        raise _refusal(sampler)
    calls = tuple(b - a for a, b in zip(still.states, moved.states, strict=True))
    return Response(calls, _completed(moved.sigmas, levels.tolist(), sampler), ends[1] - ends[0])


def _completed(asked: list[float], levels: list[float], sampler: Any) -> tuple[int, ...]:
    """Steps behind each call: the last call at a noise level is made with the state there, earlier ones look ahead."""
    completed, last = [0] * len(asked), -1
    for step, level in enumerate(levels[:-1]):
        at = max((j for j, sigma in enumerate(asked) if abs(sigma - level) <= SAME * level), default=-1)
        if at <= last:
            raise _refusal(sampler)
        completed[at], last = step, at
    return tuple(completed)


def _refusal(sampler: Any) -> ValueError:
    name = getattr(sampler, "__name__", "this one").removeprefix("sample_").removesuffix("_function")
    return ValueError(f"sampler: {name} does not stop at the noise levels of the schedule, where the source is known; "
                      "use another one, such as euler, heun or dpmpp_2m.")
