"""Conditions of a clip, laid out in grids with its frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import comfy.conds
from comfy.utils import common_upscale
from torch import Tensor

from ...methods.rave import to_grid
from .lanes_conds import Conditions, controls_of

if TYPE_CHECKING:
    from comfy.controlnet import ControlBase


def pictures_of(value: Tensor, ids: Sequence[int], grid: int) -> Tensor:
    """[n, channels, h, w], frame i in row i modulo n, as pictures of the frames ``ids``."""
    return to_grid(value[[i % value.shape[0] for i in ids]], grid)


def laid_out_model_condition(value: Any, ids: Sequence[int], grid: int, size: tuple[int, int]) -> Any:
    """One of the host's ``comfy.conds`` objects; what has no height and width is one for all frames."""
    held = getattr(value, "cond", None)
    if isinstance(value, comfy.conds.CONDConstant) or not isinstance(held, Tensor):
        return value
    if held.ndim == 4 and tuple(held.shape[-2:]) == size:
        return value._copy_with(pictures_of(held, ids, grid))
    return value


def laid_out_condition(condition: dict[str, Any], ids: Sequence[int], grid: int, size: tuple[int, int]) -> dict:
    """A processed condition for pictures of the frames ``ids``; the given one stays as it is."""
    there = dict(condition)
    there["model_conds"] = {key: laid_out_model_condition(value, ids, grid, size)
                            for key, value in condition["model_conds"].items()}  # fmt: skip
    if condition.get("mask") is not None:
        there["mask"] = pictures_of(condition["mask"][:, None], ids, grid)[:, 0]
    return there


@contextmanager
def laid_out_hint(control: ControlBase, ids: Sequence[int], grid: int, size: tuple[int, int]) -> Iterator[None]:
    """One ControlNet with the hints of frames ``ids`` as pictures, inside the ``with``."""
    hints, masks = control.cond_hint_original, getattr(control, "extra_concat_orig", [])
    if hints is None:
        yield
        return
    ratio = control.compression_ratio
    if getattr(control, "vae", None) is not None:
        ratio *= control.vae.spacial_compression_encode()

    def pictures(value: Tensor, method: str) -> Tensor:
        # To the frame's size now: the host would cut the grid to its proportions, not each frame.
        few = value[[i % value.shape[0] for i in ids]]
        return to_grid(common_upscale(few, size[1] * ratio, size[0] * ratio, method, "center"), grid)

    try:
        # A hint that the host prepared already is one of another order.
        control.cond_hint = None
        control.cond_hint_original = pictures(hints, control.upscale_algorithm)
        if masks:
            control.extra_concat_orig = [pictures(mask, control.upscale_algorithm) for mask in masks]
        yield
    finally:
        control.cond_hint = None
        control.cond_hint_original = hints
        if masks:
            control.extra_concat_orig = masks


@contextmanager
def laid_out(
    branches: Sequence[Conditions | None], ids: Sequence[int], grid: int, size: tuple[int, int]
) -> Iterator[list[Conditions | None]]:
    """The conditions of all branches for pictures of ``grid`` x ``grid`` frames, their ControlNets included.

    Args:
        branches: processed for the clip's frames.
        ids: the frame of every place of every picture.
        size: height and width of a frame's latent.
    """
    with ExitStack() as stack:
        for control in controls_of(branches):
            stack.enter_context(laid_out_hint(control, ids, grid, size))
        yield [[laid_out_condition(c, ids, grid, size) for c in conditions] if conditions is not None else None
               for conditions in branches]  # fmt: skip
