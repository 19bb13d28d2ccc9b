"""RAVE at the host's own patch points.

``OUTER_SAMPLE`` refuses what can not be laid out, ``PREPARE_SAMPLING`` tells the host how many grids it must make
room for, ``CALC_COND_BATCH`` lays frames and conditions out in grids, evaluates, and takes the frames out again. The
sampler, its memory, noise, masks and callbacks see the clip's frames in their own order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import comfy.model_management
import torch
from comfy.patcher_extension import WrappersMP

from ...methods.rave import denoise_in_grids
from .grids_conds import laid_out
from .lanes_checks import check_images, check_model
from .lanes_run import MOST_FRAMES, rows_that_fit
from .state import attached_to

if TYPE_CHECKING:
    from ...methods.rave import Rave

#: Conditions that hang on places of a picture, which in a grid are those of another frame.
PLACES = {"area": "a region by its corners (give it as a mask instead)", "gligen": "GLIGEN boxes (remove them)"}


def grids_of(model_options: dict[str, Any] | None) -> Rave | None:
    """The settings of RAVE, where frames are to be laid out."""
    state = attached_to((model_options or {}).get("transformer_options", {}))
    settings = next((a.grids for a in state.attachments if a.grids is not None), None)
    return None if settings is None or settings.grid == 1 or state.training else settings


def check_before(executor, noise, *args, **kwargs):
    """``WrappersMP.OUTER_SAMPLE``: refuse, before the model is loaded, what can not be laid out in grids.

    Raises:
        ValueError: something in the run does not go with RAVE.
    """
    guider = executor.class_obj
    if grids_of(guider.model_options) is not None:
        check_model(guider.model_options, "RAVE")
        check_images(guider, noise.shape[0])
        for name, conditions in getattr(guider, "conds", {}).items():
            for condition in conditions:
                check_condition(name, condition)
    return executor(noise, *args, **kwargs)


def check_condition(name: str, condition: dict[str, Any]) -> None:
    """Raise ValueError where a condition is for one frame, or for a place in it."""
    text = condition.get("cross_attn")
    if text is not None and text.shape[0] > 1:
        raise ValueError(f"{name}: holds {text.shape[0]} prompts, one a frame, but RAVE shows the model several frames "
                         "at once; give one prompt for all of them.")
    for key, what in PLACES.items():
        if condition.get(key) is not None:
            raise ValueError(f"{name}: holds {what}, but RAVE puts frames at other places of a larger picture.")
    control = condition.get("control")
    while control is not None:
        if not hasattr(control, "cond_hint_original"):
            raise ValueError(f"{name}: its {type(control).__name__} gives no hand on its hints, which RAVE lays out "
                             "with the frames; use a ControlNet of the core nodes.")
        control = getattr(control, "previous_controlnet", None)


def budget(executor, model, noise_shape, conds, *args, model_options=None, **kwargs):
    """``WrappersMP.PREPARE_SAMPLING``: memory for the grids of one call, not for the clip."""
    settings = grids_of(model_options)
    if settings is not None:
        frames, channels, height, width = noise_shape
        rows = min(settings.chunk or 1, -(-frames // settings.grid**2))
        noise_shape = [rows, channels, settings.grid * height, settings.grid * width]
    return executor(model, noise_shape, conds, *args, model_options=model_options, **kwargs)


def evaluate(executor, model, conds, x_in, timestep, model_options):
    """``WrappersMP.CALC_COND_BATCH``: ``calc_cond_batch`` of frames x_in [F] in grids; a result [F] for every entry."""
    settings = grids_of(model_options)
    if settings is None:
        return executor(model, conds, x_in, timestep, model_options)
    size, places = tuple(x_in.shape[-2:]), settings.grid**2
    sigmas = model_options["transformer_options"]["sample_sigmas"].cpu()

    def pictures(tiles: torch.Tensor, order: tuple[int, ...]) -> torch.Tensor:
        most = max(1, MOST_FRAMES // places)
        step = settings.chunk or rows_that_fit(model, conds, tiles, most)
        out = [torch.empty_like(tiles) for _ in conds]
        for start in range(0, len(tiles), step):
            # A clip's step can take minutes, and the host asks only between steps.
            comfy.model_management.throw_exception_if_processing_interrupted()
            rows, ids = slice(start, start + step), order[start * places : (start + step) * places]
            with laid_out(conds, ids, settings.grid, size) as there:
                results = executor(model, there, tiles[rows], timestep[:1].expand(len(tiles[rows])), model_options)
            for held, result in zip(out, results, strict=True):
                held[rows] = result
        # One tensor for the frames of all conditions, side by side in the channels.
        return torch.cat(out, 1)

    denoised = denoise_in_grids(settings, pictures, x_in, float(timestep[0]), sigmas)
    return list(denoised.split(x_in.shape[1], 1))


WRAPPERS = (
    (WrappersMP.OUTER_SAMPLE, check_before),
    (WrappersMP.PREPARE_SAMPLING, budget),
    (WrappersMP.CALC_COND_BATCH, evaluate),
)

#: Where a MODEL may have a wrapper of grids.
KINDS = tuple(kind for kind, _ in WRAPPERS)
