"""Conditions of a clip for the rows of one call: cut to its frames, or laid out in grids with them.

The host processes conditions once, for the clip's F frames. Where a value has n rows instead,
frame i has row i modulo n: what the host itself does when it repeats or cuts a value to a batch.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid5

import comfy.conds
from comfy.utils import common_upscale
from torch import Tensor

from ...methods.rave import to_grid
from ...methods.via.editor_clip import REFERENCES
from .hint_pictures import controls_of, encoded_once

if TYPE_CHECKING:
    from comfy.controlnet import ControlBase

Conditions = list[dict[str, Any]]
Encoded = dict[Hashable, Tensor]


def rows_of(value: Tensor, ids: Sequence[int]) -> Tensor:
    """The rows of frames ``ids``; a single row serves all frames and stays one."""
    return value if value.shape[0] == 1 else value[[i % value.shape[0] for i in ids]]


def cut_model_condition(value: Any, ids: Sequence[int]) -> Any:
    """One of the host's ``comfy.conds`` objects for frames ``ids``."""
    if isinstance(value, comfy.conds.CONDConstant):
        return value
    held = getattr(value, "cond", None)
    if isinstance(held, Tensor):
        return value._copy_with(rows_of(held, ids))
    if isinstance(held, (list, tuple)) and all(isinstance(part, Tensor) for part in held):
        return value._copy_with([rows_of(part, ids) for part in held])
    return value


def cut_condition(condition: dict[str, Any], ids: Sequence[int]) -> dict[str, Any]:
    """A processed condition for frames ``ids``; the given one stays as it is."""
    cut = dict(condition)
    cut["model_conds"] = {key: cut_model_condition(value, ids) for key, value in condition["model_conds"].items()}
    if condition.get("mask") is not None:
        cut["mask"] = rows_of(condition["mask"], ids)
    return cut


def with_own_names(branches: Sequence[Conditions | None]) -> list[Conditions | None]:
    """The conditions, no two with the same uuid.

    For a regional prompt the host gives the other branches a copy of their prompt for the same
    region, under the uuid of the first: keys kept by uuid would be mixed up. First ones keep theirs.
    """
    seen, named = set(), []
    for i, conditions in enumerate(branches):
        own: Conditions = []
        for j, condition in enumerate(conditions or ()):
            name = condition["uuid"]
            if name in seen:
                condition = {**condition, "uuid": uuid5(name, f"{i}.{j}")}
            seen.add(condition["uuid"])
            own.append(condition)
        named.append(own if conditions is not None else None)
    return named


#: What of a processed condition is its prompt: the tokens, and SDXL's pooled text and sizes.
TEXT = ("c_crossattn", "y")


def with_text_of(source: dict[str, Any], branches: Sequence[Conditions | None], name: Hashable
                 ) -> list[Conditions | None]:
    """The conditions, the one of that uuid with the text of ``source`` and all else as it is."""
    text = {key: source["model_conds"][key] for key in TEXT if key in source["model_conds"]}

    def one(condition: dict[str, Any]) -> dict[str, Any]:
        if condition["uuid"] != name:
            return condition
        return {**condition, "model_conds": {**condition["model_conds"], **text}}

    return [None if conditions is None else [one(c) for c in conditions] for conditions in branches]


@contextmanager
def cut_hint(control: ControlBase, ids: Sequence[int], frames: int, encoded: Encoded | None = None) -> Iterator[None]:
    """One ControlNet with what it holds for frames ``ids``, inside the ``with``; ``encoded``: hints that a VAE has
    seen already."""
    if hasattr(control, "sub_idxs"):
        # Advanced-ControlNet's kind: hints, masks and strengths per frame are its own to index, as within
        # AnimateDiff's context windows.
        with attributes(control, sub_idxs=list(ids), full_latent_length=frames, context_length=len(ids)):
            control.cond_hint = None
            yield
        control.cond_hint = None
        return
    hints, extra = getattr(control, "cond_hint_original", None), getattr(control, "extra_concat_orig", [])
    if hints is None or hints.shape[0] == 1:
        yield
        return
    held = hints.shape[0]
    try:
        # A hint that the host prepared already is cut to the batch that it saw.
        control.cond_hint = None
        control.cond_hint_original = rows_of(hints, ids)
        if extra:
            control.extra_concat_orig = [rows_of(mask, [i % held for i in ids]) for mask in extra]
        names = [(id(control), i % held) for i in ids]
        with encoded_once(control, names, {} if encoded is None else encoded):
            yield
    finally:
        control.cond_hint = None
        control.cond_hint_original = hints
        if extra:
            control.extra_concat_orig = extra


@contextmanager
def attributes(control: Any, **values: Any) -> Iterator[None]:
    """An object with other values inside the ``with``."""
    before = {name: getattr(control, name) for name in values if hasattr(control, name)}
    try:
        for name, value in values.items():
            setattr(control, name, value)
        yield
    finally:
        for name in values:
            if name in before:
                setattr(control, name, before[name])
            else:
                delattr(control, name)


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
def shorter_references(branches: Mapping[str, Conditions], rows: int) -> Iterator[None]:
    """Conditions with references of so many frames inside the ``with``: the host makes room for all that it sees."""
    held = [(condition, condition[REFERENCES]) for conditions in branches.values() for condition in conditions
            if condition.get(REFERENCES)]  # fmt: skip
    try:
        for condition, references in held:
            condition[REFERENCES] = [latent[:rows] for latent in references]
        yield
    finally:
        for condition, references in held:
            condition[REFERENCES] = references


def shapes_of(conditions: Conditions, keys: Sequence[str], rows: int) -> dict[str, list[list[int]]]:
    """What a MODEL asks for its estimate of memory: shapes of the processed conditions ``keys``, for so many rows."""
    shapes: dict[str, list[list[int]]] = {}
    for condition in conditions:
        for key in keys:
            held = getattr(condition["model_conds"].get(key), "cond", None)
            parts = [part for part in (held if isinstance(held, (list, tuple)) else [held]) if isinstance(part, Tensor)]
            if parts:
                # The host counts rows times what is behind the channels.
                size = sum(part[0, 0].numel() for part in parts)
                shapes.setdefault(key, []).append([rows, parts[0].shape[1], size])
    return shapes


@contextmanager
def for_rows(
    branches: Sequence[Conditions | None], ids: Sequence[int], frames: int, grid: int, size: tuple[int, int],
    encoded: Encoded | None = None,
) -> Iterator[list[Conditions | None]]:
    """The conditions of all branches for the rows of one call, their ControlNets included, inside the ``with``.

    Args:
        branches: processed for the clip's frames.
        ids: the frame of every row, or with ``grid`` > 1 of every place of every row.
        frames: of the clip.
        grid: frames a side of a row.
        size: height and width of a frame's latent.
        encoded: hints of ControlNets that a VAE has seen in this run, filled here.
    """

    def one(condition: dict[str, Any]) -> dict[str, Any]:
        return cut_condition(condition, ids) if grid == 1 else laid_out_condition(condition, ids, grid, size)

    with ExitStack() as stack:
        for control in controls_of(branches):
            stack.enter_context(cut_hint(control, ids, frames, encoded) if grid == 1 else
                                laid_out_hint(control, ids, grid, size))
        yield [[one(c) for c in conditions] if conditions is not None else None for conditions in branches]
