"""VIA's boundary blend around a SAMPLER of the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import comfy.k_diffusion.sampling as k_diffusion
from comfy.samplers import KSAMPLER

from ...methods.via.blend import blended
from .flow_edit import is_flow
from .planned_run import FRAME_IDS

if TYPE_CHECKING:
    from comfy.samplers import Sampler
    from torch import Tensor

    from ...methods.via.blend import BoundaryBlend

#: Samplers without memory between steps and without noise, by the host's names; "ddim" is euler there.
SINGLE_STEP = ("euler", "heun", "dpm_2", "euler_cfg_pp", "exp_heun_2_x0")


def blend_sampler(sampler: Sampler, blend: BoundaryBlend) -> KSAMPLER:
    """A SAMPLER that keeps what the blend says; the one that comes in is not changed.

    Raises:
        ValueError: the sampler brings a loop of its own.
    """
    if not isinstance(sampler, KSAMPLER):
        raise ValueError(f"sampler: {type(sampler).__name__} brings a loop of its own, which gives no hand on its "
                         "steps; use one of KSamplerSelect.")
    function, options = sampler.sampler_function, sampler.extra_options

    def finish(model: Any, sigmas: Tensor) -> None:
        # The guider scales the result after this, which rounds. It drops the model with the run's end.
        model.inner_model.inner_model = _Restoring(model.inner_model.inner_model, blend, sigmas)

    mixed = blended(function, blend, literal=is_single_step(function, options), finish=finish,
                    to_model_space=lambda model: model.inner_model.inner_model.process_latent_in,
                    frame_ids=frame_ids, noisy=noisy_of)  # fmt: skip
    return KSAMPLER(mixed, options, sampler.inpaint_options)


def noisy_of(model: Any) -> Callable[[Tensor, Tensor], Tensor] | None:
    """The host's own noise scaling with the noise of the run, from what a sampler is called with; None: no flow."""
    sampling = model.inner_model.inner_model.model_sampling
    return (lambda sigma, x: sampling.noise_scaling(sigma, model.noise.to(x), x, False)) if is_flow(sampling) else None


def is_single_step(function: Callable, options: dict[str, Any]) -> bool:
    """Whether a run over two noise levels at a time is the same as one run; churn counts the run's steps."""
    known = [getattr(k_diffusion, f"sample_{name}", None) for name in SINGLE_STEP]
    return function in known and not options.get("s_churn")


def frame_ids(extra_args: dict[str, Any]) -> Sequence[int] | None:
    """The frame of every row where reference frames ride along in the batch."""
    return extra_args.get("model_options", {}).get("transformer_options", {}).get(FRAME_IDS)


class _Restoring:
    """The guider's model for the rest of a run, giving the kept region its own numbers back."""

    def __init__(self, model: Any, blend: BoundaryBlend, sigmas: Tensor) -> None:
        self._model, self._blend, self._sigmas = model, blend, sigmas

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def process_latent_out(self, latent: Tensor) -> Tensor:
        return self._blend.restore(self._model.process_latent_out(latent), self._sigmas)
