"""All measures of one edited clip, under the names of the table."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from ...vision import metrics

if TYPE_CHECKING:
    from torch import Tensor

    from .cases import Case, World
    from .edited import Edited, Settings

#: name -> (heading, format, better: +1 more, -1 less, 0 neither).
KEYS: dict[str, tuple[str, str, int]] = {
    "edit_accuracy": ("edit right", ".0%", 1),
    "psnr_truth": ("PSNR truth", ".2f", 1),
    "psnr_inside": ("inside", ".2f", 1),
    "psnr_background": ("background", ".2f", 1),
    "flicker": ("flicker", ".4f", -1),
    "motion_error": ("motion px", ".2f", -1),
    "clip_frame": ("CLIP frame", ".4f", 1),
    "clip_text": ("CLIP text", ".4f", 1),
    "warp_error": ("warp error", ".5f", -1),
    "mean_shift": ("mean shift", ".4f", -1),
    "variance_shift": ("var. shift", ".4f", -1),
    "train_seconds": ("train s", ".1f", -1),
    "infer_seconds": ("infer s", ".1f", -1),
    "peak_mb": ("peak MB", ".0f", -1),
}
#: Pixels around the object that count to neither side: the VAE mixes them.
MARGIN = 6
#: Where in the noise schedule the features are looked at.
_MOMENTS = (0.25, 0.5, 0.75)


def score(world: World, case: Case, edited: Edited, settings: Settings | None = None) -> dict[str, float | None]:
    """Every key of ``KEYS`` for one clip; None where it has no meaning.

    Args:
        settings: of the edit's sampling; None leaves out the shifts, the measures inside the model.
    """
    frames, truth = edited.frames, case.truth
    # A new shape covers other pixels: the object's place is where it is before or after.
    mask = torch.maximum(case.source.masks[0], truth.masks[0])
    far = _grown(mask) < 0.01
    moving = truth.masks.amax(0)[:-1]
    embeddings, prompt = world.embed(frames, truth.caption)
    mean_shift, variance_shift = _shifts(world, case, edited, settings) if settings else (None, None)
    return {
        "edit_accuracy": metrics.edit_accuracy(judged_names(world, case, frames), case.edit.target),
        "psnr_truth": metrics.psnr(frames, truth.frames),
        "psnr_inside": metrics.psnr(frames, truth.frames, mask),
        "psnr_background": metrics.psnr(frames, truth.frames, far),
        "flicker": metrics.flicker(frames, truth.frames, truth.flow, truth.flow_valid),
        "motion_error": metrics.motion_error(frames, truth.flow, truth.flow_valid, moving),
        "clip_frame": metrics.clip_frame(embeddings),
        "clip_text": metrics.clip_text(embeddings, prompt),
        "warp_error": metrics.warp_error(frames, truth.flow, truth.flow_valid),
        "mean_shift": mean_shift,
        "variance_shift": variance_shift,
        "train_seconds": edited.train_seconds,
        "infer_seconds": edited.infer_seconds,
        "peak_mb": edited.peak_mb,
    }


def judged_names(world: World, case: Case, frames: Tensor) -> list[str]:
    """What the judge sees in each frame: of the object's surroundings, or of all of it."""
    from ...toyworld.models.classifier import boxes_of
    from ...toyworld.models.judge import classify

    local = case.edit.kind in ("colour", "shape", "texture")
    return classify(frames, boxes_of(case.truth.masks[0]) if local else None, world.judge)[case.edit.kind]


def _grown(mask: Tensor) -> Tensor:
    side = 2 * MARGIN + 1
    return torch.nn.functional.max_pool2d(mask[:, None], side, 1, MARGIN)[:, 0]


def _shifts(world: World, case: Case, edited: Edited, settings: Settings) -> tuple[float | None, float | None]:
    """Mean and variance shift by the temporal modules, over all blocks, while the edit is sampled.

    The tuned model takes one step of the edit at three moments, from the inversion's own x.
    """
    attachments = world.backend.attachments(edited.model) if hasattr(world.backend, "attachments") else ()
    modules = [m for a in attachments for m in (a.modules or {}).values()]
    if not modules:
        return None, None
    count = len(edited.frames)
    found: dict[str, list[float]] = {"mean": [], "variance": []}

    def look(module: Any, inputs: tuple, output: Tensor) -> None:
        found["mean"].append(metrics.mean_shift(inputs[0], output, count))
        found["variance"].append(metrics.variance_shift(inputs[0], output, count))

    hooks = [module.register_forward_hook(look) for module in modules]
    try:
        for moment in _MOMENTS:
            index = max(1, round(moment * (len(edited.sigmas) - 1)))
            world.backend.sample(
                edited.model, case.target_text, case.empty, settings.guidance, edited.trajectory[index],
                edited.sigmas[[index, index - 1]], world.backend.progress(1, "features"),
            )  # fmt: skip
    finally:
        for hook in hooks:
            hook.remove()
    return fmean(found["mean"]), fmean(found["variance"])
