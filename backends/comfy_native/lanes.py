"""Lock-step gather-swap at the host's own patch points.

``OUTER_SAMPLE`` refuses what can not be exact, ``PREPARE_SAMPLING`` tells the host how many frames
it must make room for, ``SAMPLER_SAMPLE`` puts the group's frames into the sampler's batch as lanes
and takes them out again, ``CALC_COND_BATCH`` evaluates the lanes and then the frames in chunks.
Conditions, masks and everything outside of the sampler's own loop stay at the clip's frames.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any

from comfy.patcher_extension import WrapperExecutor, WrappersMP

from .lanes_checks import check_run
from .lanes_conds import rows_of
from .lanes_run import FRAME_IDS, RUN, LaneRun
from .state import attached_to

if TYPE_CHECKING:
    from torch import Tensor

    from ...methods.attachment import Attachment


def lanes_of(model_options: dict[str, Any] | None) -> Attachment | None:
    """The attachment that asks for lanes."""
    attachments = attached_to((model_options or {}).get("transformer_options", {})).attachments
    return next((attachment for attachment in attachments if attachment.lanes is not None), None)


def check_before(executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
    """``WrappersMP.OUTER_SAMPLE``: refuse, before the model is loaded, what lock-step can not do exactly."""
    attachment = lanes_of(executor.class_obj.model_options)
    if attachment is not None:
        check_run(executor.class_obj, attachment, noise, sampler, sigmas)
    return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)


def budget(executor, model, noise_shape, conds, *args, model_options=None, **kwargs):
    """``WrappersMP.PREPARE_SAMPLING``: memory for the frames of one call, not for those of the clip."""
    attachment = lanes_of(model_options)
    if attachment is not None and not mixes_frames(model_options):
        rows = max(len(attachment.lanes.group_of(noise_shape[0])), attachment.lanes.chunk)
        noise_shape = [min(noise_shape[0], rows), *noise_shape[1:]]
    return executor(model, noise_shape, conds, *args, model_options=model_options, **kwargs)


def sample_with_lanes(executor, guider, sigmas, extra_args, callback, noise, *args, **kwargs):
    """``WrappersMP.SAMPLER_SAMPLE``: a copy of the sampler whose own function has lanes in its batch."""
    options = extra_args["model_options"]
    attachment = lanes_of(options)
    if attachment is None:
        return executor(guider, sigmas, extra_args, callback, noise, *args, **kwargs)
    frames = noise.shape[0]
    group = attachment.lanes.group_of(frames)
    run = LaneRun(attachment.lanes, attachment.sites, frames, group, sigmas, mixes_frames(options))
    sampler = copy.copy(executor.class_obj)
    sampler.sampler_function = with_lanes(sampler.sampler_function, run)
    with_copy = WrapperExecutor.new_class_executor(sampler.sample, sampler, executor.wrappers, executor.idx)
    return with_copy(guider, sigmas, extra_args, callback, noise, *args, **kwargs)


def with_lanes(function: Callable[..., Tensor], run: LaneRun) -> Callable[..., Tensor]:
    """A sampler's function, ``f(model, x, sigmas, extra_args, callback, disable, **options)``, with lanes inside.

    It takes and returns the clip's frames, and its callback sees no others.
    """

    @wraps(function)
    def sample(model, x, sigmas, extra_args=None, callback=None, disable=None, **options):
        ids = list(run.ids)
        # The host made this object for this run: it holds what masked regions are filled with.
        model.noise, model.latent_image = (part if part is None else rows_of(part, ids)
                                           for part in (model.noise, model.latent_image))  # fmt: skip
        arguments, outer = dict(extra_args), extra_args["model_options"]
        inner = {**outer["transformer_options"], RUN: run, FRAME_IDS: run.ids}
        arguments["model_options"] = {**outer, "transformer_options": inner}
        if arguments.get("denoise_mask") is not None:
            arguments["denoise_mask"] = rows_of(arguments["denoise_mask"], ids)
        told = callback and frames_only(callback, run)
        with run.noise:
            out = function(model, x[ids], sigmas, extra_args=arguments, callback=told, disable=disable, **options)
        return out[: run.frames]

    return sample


def frames_only(callback: Callable[[dict[str, Any]], None], run: LaneRun) -> Callable[[dict[str, Any]], None]:
    """A sampler's callback that is not told of lanes."""

    def told(state: dict[str, Any]) -> None:
        with run.noise.paused():
            callback({key: strip(value, run) for key, value in state.items()})

    return told


def strip(value: Any, run: LaneRun) -> Any:
    """A tensor with a row per frame and lane, without the lanes; anything else as it is."""
    shape: Sequence[int] = getattr(value, "shape", ())
    return value[: run.frames] if len(shape) > 1 and shape[0] == len(run.ids) else value


def evaluate(executor, model, conds, x_in, timestep, model_options):
    """``WrappersMP.CALC_COND_BATCH``: lanes and frames in calls of their own."""
    run = model_options.get("transformer_options", {}).get(RUN)
    if run is None or x_in.shape[0] != len(run.ids):
        return executor(model, conds, x_in, timestep, model_options)
    return run.evaluate(executor, model, conds, x_in, timestep, model_options)


def mixes_frames(model_options: dict[str, Any]) -> bool:
    """Whether something attached lets frames see each other, so that they must not be parted."""
    attachments = attached_to(model_options.get("transformer_options", {})).attachments
    return any(a.mixing is not None or a.modules is not None for a in attachments)


WRAPPERS = (
    (WrappersMP.OUTER_SAMPLE, check_before),
    (WrappersMP.PREPARE_SAMPLING, budget),
    (WrappersMP.SAMPLER_SAMPLE, sample_with_lanes),
    (WrappersMP.CALC_COND_BATCH, evaluate),
)

#: Where a MODEL may have a wrapper of lanes.
KINDS = tuple(kind for kind, _ in WRAPPERS)
