"""A method's plan at the host's own patch points.

``OUTER_SAMPLE`` refuses what can not be exact and finds the run's place in the whole schedule, ``PREPARE_SAMPLING``
tells the host how many rows it must make room for, ``SAMPLER_SAMPLE`` begins the run and puts the plan's reference
frames into the sampler's batch, ``PREDICT_NOISE`` gives guidance the clip's frames alone, ``CALC_COND_BATCH`` has the
plan evaluate. Conditions, masks and everything outside of the sampler's own loop stay at the clip's frames.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any

from comfy.patcher_extension import WrapperExecutor, WrappersMP
from comfy.sampler_helpers import convert_cond

from ...methods.sampling_plan import RunFacts, SamplingPlan, plan_of
from .frame_conditions import rows_of, shorter_references
from .planned_checks import check_run
from .planned_run import FRAME_IDS, RUN, HostRun
from .schedule import whole_schedule
from .state import attached_to

if TYPE_CHECKING:
    from torch import Tensor

SCHEDULE = "steadyedit_schedule"
SOURCE = "steadyedit_source"


def planned(model_options: dict[str, Any] | None) -> tuple[SamplingPlan, frozenset[str]] | None:
    """The plan at work on a MODEL, and the blocks that it touches."""
    state = attached_to((model_options or {}).get("transformer_options", {}))
    return None if state.training else plan_of(state.attachments)


def mixes_frames(model_options: dict[str, Any]) -> bool:
    """Whether something attached lets frames see each other, so that they must not be parted."""
    return any(a.mixes_frames for a in attached_to(model_options.get("transformer_options", {})).attachments)


def check_before(executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
    """``WrappersMP.OUTER_SAMPLE``: refuse, before the model is loaded, what can not be done exactly."""
    guider = executor.class_obj
    found = planned(guider.model_options)
    if found is not None:
        plan, sites = found
        check_run(guider, plan, sites, noise, sampler, sigmas)
        levels, first = whole_schedule(sigmas, bool(noise.any()), plan.name)
        # A run that can not be exact says so now, not after loading.
        plan.begin_run(RunFacts(noise.shape[0], levels, first, mixes_frames(guider.model_options)), sites)
        guider.model_options["transformer_options"][SCHEDULE] = levels, first
        if plan.source is not None:
            # The host processes it with the others; no guider looks at its name.
            guider.conds[SOURCE] = convert_cond(plan.source.conditioning)
    return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)


def budget(executor, model, noise_shape, conds, *args, model_options=None, **kwargs):
    """``WrappersMP.PREPARE_SAMPLING``: memory for the rows of one call, not for those of the clip."""
    found = planned(model_options)
    if found is not None and (found[0].cuts_clip or not mixes_frames(model_options)):
        plan, (frames, channels, *size) = found[0], noise_shape
        rows = min(max(plan.rows_together(frames), plan.chunk), -(-frames // plan.grid**2))
        noise_shape = [rows, channels, *(plan.grid * side for side in size)]
        with shorter_references(conds, rows):
            return executor(model, noise_shape, conds, *args, model_options=model_options, **kwargs)
    return executor(model, noise_shape, conds, *args, model_options=model_options, **kwargs)


def begin(executor, guider, sigmas, extra_args, callback, noise, *args, **kwargs):
    """``WrappersMP.SAMPLER_SAMPLE``: begin the plan's run; where it has reference frames, in a copy of the sampler
    whose own function has them in its batch."""
    outer = extra_args["model_options"]
    found = planned(outer)
    if found is None:
        return executor(guider, sigmas, extra_args, callback, noise, *args, **kwargs)
    plan, sites = found
    frames, (levels, first) = noise.shape[0], outer["transformer_options"][SCHEDULE]
    source = None if plan.source is None else guider.conds.pop(SOURCE)[: len(plan.source.conditioning)]
    run = HostRun(plan.name, plan.begin_run(RunFacts(frames, levels, first, mixes_frames(outer)), sites), frames,
                  plan.reference_frames(frames), source, positive_of(guider), noise)
    run.guided.begin(outer)
    inner = {**outer["transformer_options"], RUN: run, FRAME_IDS: run.ids}
    extra_args = {**extra_args, "model_options": {**outer, "transformer_options": inner}}
    if not run.group:
        return executor(guider, sigmas, extra_args, callback, noise, *args, **kwargs)
    sampler = copy.copy(executor.class_obj)
    sampler.sampler_function = with_rows(sampler.sampler_function, run)
    with_copy = WrapperExecutor.new_class_executor(sampler.sample, sampler, executor.wrappers, executor.idx)
    return with_copy(guider, sigmas, extra_args, callback, noise, *args, **kwargs)


def positive_of(guider: Any) -> Hashable:
    """The identity of the positive condition; None where the guider has none."""
    return next((condition["uuid"] for condition in guider.conds.get("positive") or ()), None)


def with_rows(function: Callable[..., Tensor], run: HostRun) -> Callable[..., Tensor]:
    """A sampler's function, ``f(model, x, sigmas, extra_args, callback, disable, **options)``, with reference frames
    in its batch.

    It takes and returns the clip's frames, and its callback sees no others.
    """

    @wraps(function)
    def sample(model, x, sigmas, extra_args=None, callback=None, disable=None, **options):
        ids = list(run.ids)
        # The host made this object for this run: it holds what masked regions are filled with.
        model.noise, model.latent_image = (part if part is None else rows_of(part, ids)
                                           for part in (model.noise, model.latent_image))  # fmt: skip
        arguments = dict(extra_args)
        if arguments.get("denoise_mask") is not None:
            arguments["denoise_mask"] = rows_of(arguments["denoise_mask"], ids)
        watched = callback and frames_only(callback, run)
        with run.noise:
            out = function(model, x[ids], sigmas, extra_args=arguments, callback=watched, disable=disable, **options)
        return out[: run.frames]

    return sample


def frames_only(callback: Callable[[dict[str, Any]], None], run: HostRun) -> Callable[[dict[str, Any]], None]:
    """A sampler's callback that sees the clip's frames alone."""

    def call(state: dict[str, Any]) -> None:
        with run.noise.paused():
            callback({key: strip(value, run) for key, value in state.items()})

    return call


def strip(value: Any, run: HostRun) -> Any:
    """A tensor with a row per frame and reference frame, without the latter; anything else as it is."""
    shape: Sequence[int] = getattr(value, "shape", ())
    return value[: run.frames] if len(shape) > 1 and shape[0] == len(run.ids) else value


def guide(executor, x, timestep, model_options=None, seed=None):
    """``WrappersMP.PREDICT_NOISE``: guidance of the clip's frames, and of the reference frames after them.

    Raises:
        ValueError: another node evaluates the model by itself, so that the plan never had its turn.
    """
    options = model_options or {}
    run = options.get("transformer_options", {}).get(RUN)
    if run is None:
        return executor(x, timestep, options, seed)
    before = run.evaluations
    out = guided(executor, run, x, timestep, options, seed)
    if run.evaluations == before:
        raise ValueError(f"model: another node evaluates the model in a way of its own, past the host's, so that "
                         f"{run.method} has no part in it; remove it.")
    return out


def guided(executor, run, x, timestep, options, seed):
    """Of all rows of x."""
    if not run.group:
        return executor(x, timestep, options, seed)
    if x.shape[0] != len(run.ids):
        raise ValueError(f"sampler: asks about {x.shape[0]} latents, where {run.method} has put {len(run.ids)} into "
                         "its batch; use another sampler, such as euler or dpmpp_2m.")
    return run.guided.guide(executor, x, timestep, options, seed)


def evaluate(executor, model, conds, x_in, timestep, model_options):
    """``WrappersMP.CALC_COND_BATCH``: an evaluation, split into calls by the plan."""
    run = model_options.get("transformer_options", {}).get(RUN)
    if run is None:
        return executor(model, conds, x_in, timestep, model_options)
    return run.evaluate(executor, model, conds, x_in, timestep, model_options)


WRAPPERS = (
    (WrappersMP.OUTER_SAMPLE, check_before),
    (WrappersMP.PREPARE_SAMPLING, budget),
    (WrappersMP.SAMPLER_SAMPLE, begin),
    (WrappersMP.PREDICT_NOISE, guide),
    (WrappersMP.CALC_COND_BATCH, evaluate),
)

#: Where a MODEL may have a wrapper of a plan.
KINDS = tuple(kind for kind, _ in WRAPPERS)
