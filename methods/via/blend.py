"""VIA's local latent adaptation around a sampler: the kept region follows the source's inversion.

After each step t of n the state is mixed with the source's latent at the same noise level,
z <- kernels.boundary_blend(z, z_src(t), M_keep, w), in one of two forms:

literal            The sampler runs from one noise level to the next, and its result is mixed.
                   Exact for samplers that remember nothing between steps and draw no noise.
through the x_0    Everything else. The sampler runs once, over all steps, with its memory and
                   its noise, on a state x of its own; the denoiser that it calls evaluates the
                   mixed state: D(x + o), where o is what mixing has added so far. A change of a
                   state lives on in a sampler as a change of its start does, scaled by the ratio
                   of its responses, which ``response`` measures. For the literal form's samplers
                   both are equal; where nothing is kept the sampler is bit for bit undisturbed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from ...diffusion.trajectory import FlowPath, Trajectory
from ...kernels.boundary_blend import READINGS, boundary_blend, ramp_weight
from .response import Response, measure

Sampler = Callable[..., Tensor]

#: A flow's x_sigma from sigma and x_0 in the model's scale, with a run's own noise.
Noisy = Callable[[Tensor, Tensor], Tensor]

#: When to mix. The last two are the paper's ablations (its appendix B).
MODES = ("ramp", "no ramp", "last step only")


@dataclass(frozen=True, eq=False)
class BoundaryBlend:
    """What to keep of a clip, and how fast.

    Args:
        trajectory: of the clip's inversion, or its own path under a flow.
        keep: M_keep, [frames or 1, 1, height, width] in 0 .. 1 at the latent's size; of a video latent [clips or 1, 1,
            frames, height, width].
        mode: one of ``MODES``.
        reading: of equation 6, see ``kernels.boundary_blend``.
        ramp: T in steps; 0 for all steps of the sampling.
    """

    trajectory: Trajectory | FlowPath
    keep: Tensor
    mode: str = "ramp"
    reading: str = "A"
    ramp: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES or self.reading not in READINGS or self.ramp < 0:
            raise ValueError(f"boundary blend: {self.mode!r}, reading {self.reading!r}, ramp of {self.ramp} steps.")
        frames, _, *size = self.trajectory.shape
        if self.keep.shape not in [(n, 1, *size) for n in (1, frames)]:
            raise ValueError(f"mask: {tuple(self.keep.shape)} does not fit {frames} latents of {size[-1]}x{size[-2]}.")

    def weight(self, step: int, steps: int) -> float | None:
        """w after ``step`` of ``steps``; None where nothing is mixed."""
        if self.mode == "last step only":
            return 1.0 if step == steps else None
        return ramp_weight(step, 1 if self.mode == "no ramp" else self.ramp or steps)

    def restore(self, samples: Tensor, sigmas: Tensor) -> Tensor:
        """LATENT samples with the kept region's own numbers, which scaling there and back has rounded.

        Only where sampling went down to noise level 0; masks of another batch are left alone.
        """
        if float(sigmas[-1]) != 0 or samples.shape != self.trajectory.shape:
            return samples
        return torch.where(self.keep.to(samples.device) == 1, self.trajectory.source.to(samples), samples)


class BlendRun:
    """One run of a sampler with a blend: which latent belongs to which step and row.

    Args:
        blend: what to keep.
        x: [rows, channels, height, width], the sampler's start.
        sigmas: [steps + 1], descending, of the whole run.
        to_model_space: LATENT samples in the scale of x.
        ids: the frame of every row of x; None where the rows are the clip's frames.
        noise_mask: the host's own mask for this run, if it has one.
        noisy: of the run, where the model is a flow.

    Raises:
        ValueError: the run does not fit the blend; one sentence that says why.
    """

    def __init__(self, blend: BoundaryBlend, x: Tensor, sigmas: Tensor, to_model_space: Callable[[Tensor], Tensor],
                 ids: Sequence[int] | None = None, noise_mask: Tensor | None = None, noisy: Noisy | None = None
                 ) -> None:
        frames, *place = blend.trajectory.shape
        self.blend, self.sigmas, self.scale = blend, sigmas, to_model_space
        self.ids = list(range(len(x))) if ids is None else list(ids)
        if noise_mask is not None:
            raise ValueError("latent_image: carries a noise mask, which would mix the kept region a second time; "
                             "remove Set Latent Noise Mask, since Boundary Blend has the mask.")
        if list(x.shape[1:]) != place or max(self.ids) + 1 != frames:
            raise ValueError(f"latent_image: {max(self.ids) + 1} frames of {tuple(x.shape[1:])}, but the inversion at "
                             f"Boundary Blend has {frames} of {tuple(place)}; connect the inversion of this clip.")
        if noisy is None and isinstance(blend.trajectory, FlowPath):
            raise ValueError("inverted: is a flow model's path from Source Path, but this model is no flow; connect "
                             "DDIM Inversion of the clip.")
        self.noisy = noisy
        self.steps = len(sigmas) - 1
        if blend.mode == "ramp" and blend.ramp > self.steps:
            raise ValueError(f"ramp_steps: {blend.ramp} is more than the {self.steps} sampling steps, so that the kept "
                             "region would end as a mixture; use 0 or a smaller number.")
        mixed = [t for t in range(1, self.steps + 1) if blend.weight(t, self.steps) is not None]
        self.indices: dict[int, float] = {t: blend.trajectory.step_of(float(sigmas[t])) for t in mixed}
        self.keep = (blend.keep if len(blend.keep) == 1 else blend.keep[self.ids]).to(x.device)

    def after(self, step: int, z: Tensor) -> Tensor:
        """z mixed with the source after ``step`` steps."""
        return self._mix(step, z, self.indices.get(step))

    def preview(self, step: int, denoised: Tensor) -> Tensor:
        """x_0 as predicted in the course of ``step``, mixed as the state will be after it."""
        return self._mix(step, denoised, 0)

    def _mix(self, step: int, z: Tensor, index: float | None) -> Tensor:
        weight = self.blend.weight(step, self.steps)
        if weight is None or index is None:
            return z
        path = self.blend.trajectory
        if isinstance(path, FlowPath):
            assert self.noisy is not None
            source = self.scale(path.source[self.ids].to(z.device, torch.float32))
            # At 0 the clip itself, without noise times 0.
            source = (self.noisy(source.new_tensor(index), source) if index else source).to(z)
        else:
            source = self.scale(path[int(index), self.ids].to(z.device, torch.float32)).to(z)
        return boundary_blend(z, source, self.keep, weight, self.blend.reading)

    def preview_callback(self, callback: Callable[[dict[str, Any]], None] | None,
                         offset: int | None = None) -> Callable | None:
        """A sampler's callback that shows what the result will be; ``offset`` counts steps for a single one."""
        if callback is None:
            return None

        def call(state: dict[str, Any]) -> None:
            i = state["i"] if offset is None else offset
            callback({**state, "i": i, "denoised": self.preview(i + 1, state["denoised"])})

        return call


def sample_step_by_step(sampler: Sampler, run: BlendRun, model: Any, x: Tensor, extra_args: dict[str, Any],
                        callback: Callable | None, **options: Any) -> Tensor:
    """The literal form. Arguments as a sampler's, the noise levels being those of the run."""
    for t in range(1, run.steps + 1):
        # A copy of the extra arguments: some samplers add to them.
        x = sampler(model, x, run.sigmas[t - 1 : t + 1].clone(), extra_args=dict(extra_args),
                    callback=run.preview_callback(callback, t - 1), disable=True, **options)
        x = run.after(t, x)
    return x


def sample_through_denoiser(sampler: Sampler, run: BlendRun, model: Any, x: Tensor, extra_args: dict[str, Any],
                            callback: Callable | None, disable: bool | None = None, **options: Any) -> Tensor:
    """The form through the x_0; arguments as a sampler's.

    Raises:
        ValueError: the sampler does not stop at the schedule's noise levels.
    """
    response = measure(sampler, model, run.sigmas, extra_args, x.dtype, **options)
    mixed = _MixedDenoiser(model, run, response)
    out = sampler(mixed, x, run.sigmas.clone(), extra_args=extra_args, callback=run.preview_callback(callback),
                  disable=disable, **options)
    return run.after(run.steps, out + mixed.offset_at(response.end) if mixed.offset is not None else out)


class _MixedDenoiser:
    """D(x + o) for a sampler whose state is x, with o = what mixing has added."""

    def __init__(self, model: Any, run: BlendRun, response: Response) -> None:
        self.model, self.run, self.response = model, run, response
        self.offset: Tensor | None = None
        self.calls, self.since = 0, 0.0

    def __getattr__(self, name: str) -> Any:
        # Samplers ask the model for its schedule.
        return getattr(self.model, name)

    def offset_at(self, response: float) -> Tensor:
        """The offset as it is where a change of the start has become ``response``."""
        assert self.offset is not None
        return self.offset * (response / self.since if self.since else 0.0)

    def __call__(self, x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        response, step = self.response.calls[self.calls], self.response.completed[self.calls]
        self.calls += 1
        state = x if self.offset is None else x + self.offset_at(response)
        if step:
            state = self.run.after(step, state)
            self.offset, self.since = state - x, response
        return self.model(state, sigma, **extra_args)


def blended(sampler: Sampler, blend: BoundaryBlend, *, literal: bool,
            to_model_space: Callable[[Any], Callable[[Tensor], Tensor]],
            frame_ids: Callable[[dict[str, Any]], Sequence[int] | None],
            finish: Callable[[Any, Tensor], None] | None = None,
            noisy: Callable[[Any], Noisy | None] = lambda model: None) -> Sampler:
    """A sampler in k-diffusion's convention that keeps what the blend says.

    Args:
        sampler: in the same convention.
        blend: what to keep.
        literal: whether it is a deterministic single-step sampler.
        to_model_space: of the model that a run is called with.
        frame_ids: of the rows, from a run's extra arguments.
        finish: called with the model and the noise levels after a run.
        noisy: of the model that a run is called with; None where it is no flow.

    Raises:
        ValueError: the sampler is blended already.
    """
    check_unblended(sampler)

    @wraps(sampler)
    def sample(model: Any, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any] | None = None,
               callback: Callable | None = None, disable: bool | None = None, **options: Any) -> Tensor:
        arguments = dict(extra_args or {})
        run = BlendRun(blend, x, sigmas.clone(), to_model_space(model), frame_ids(arguments),
                       arguments.get("denoise_mask"), noisy(model))
        if literal:
            x = sample_step_by_step(sampler, run, model, x, arguments, callback, **options)
        else:
            x = sample_through_denoiser(sampler, run, model, x, arguments, callback, disable, **options)
        if finish is not None:
            finish(model, sigmas)
        return x

    sample.keeps = blend  # type: ignore[attr-defined]
    return sample


def check_unblended(sampler: Any) -> None:
    """Raise ValueError where a sampler, or what stands for one, has a blend already."""
    if getattr(sampler, "keeps", None) is not None:
        raise ValueError("sampler: has a Boundary Blend already, and a second one would mix what the first has kept; "
                         "join the masks and use one.")
