"""Conditions of a clip, cut to the frames of one call: everything per frame is indexed by frame id.

The host processes conditions once, for the clip's F frames. Where a value has n rows instead,
frame i has row i modulo n: what the host itself does when it repeats or cuts a value to a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid5

import comfy.conds
from torch import Tensor

if TYPE_CHECKING:
    from comfy.controlnet import ControlBase

Conditions = list[dict[str, Any]]


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


def controls_of(branches: Sequence[Conditions | None]) -> list[ControlBase]:
    """Every ControlNet of the conditions once, with those chained before it and its copies on other devices."""
    found: dict[int, ControlBase] = {}
    for condition in (c for conditions in branches for c in conditions or ()):
        control = condition.get("control")
        while control is not None:
            for instance in (control, *getattr(control, "multigpu_clones", {}).values()):
                found[id(instance)] = instance
            control = getattr(control, "previous_controlnet", None)
    return list(found.values())


@contextmanager
def cut_hint(control: ControlBase, ids: Sequence[int]) -> Iterator[None]:
    """One ControlNet with the hints of frames ``ids``, inside the ``with``."""
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
        yield
    finally:
        control.cond_hint = None
        control.cond_hint_original = hints
        if extra:
            control.extra_concat_orig = extra


@contextmanager
def cut_to(branches: Sequence[Conditions | None], ids: Sequence[int]) -> Iterator[list[Conditions | None]]:
    """The conditions of all branches for frames ``ids``, their ControlNets included, inside the ``with``."""
    with ExitStack() as stack:
        for control in controls_of(branches):
            stack.enter_context(cut_hint(control, ids))
        yield [[cut_condition(c, ids) for c in conditions] if conditions is not None else None
               for conditions in branches]  # fmt: skip
