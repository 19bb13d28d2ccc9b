"""The attentions that gather-swap replaces in one call of the U-Net."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ...methods.via.gather_swap import LaneCall
from .blocks import refuse_second_owner, replace_key
from .lanes_run import CALL, LanePass

if TYPE_CHECKING:
    from torch import Tensor


def lane_patches(options: Mapping[str, Any]) -> dict[str, dict[tuple[str, int, int], Callable]]:
    """Replacements of attentions by kind ("self", "cross") and the host's key; none in a plain call.

    Raises:
        ValueError: another pack replaces the same attention of the same block.
    """
    lane_pass: LanePass | None = options.get(CALL)
    if lane_pass is None:
        return {}
    call = LaneCall(lane_pass.mode, tuple(options["uuids"]), lane_pass.bank, lane_pass.settings)
    patches = {}
    for kind in lane_pass.settings.kinds:
        refuse_second_owner(options.get("patches_replace", {}), kind, lane_pass.sites, "gather-swap")
        patches[kind] = {replace_key(path): patch(call, path, kind, lane_pass.rows) for path in lane_pass.sites}
    return patches


def patch(call: LaneCall, path: str, kind: str, rows: int) -> Callable:
    """One attention of a ``LaneCall`` as the host's replacement of softmax(QK^T)V."""

    def attention(q: Tensor, k: Tensor, v: Tensor, options: dict) -> Tensor:
        if q.shape[0] != rows * len(call.branches):
            raise ValueError(f"model: another patch of {kind}-attention changed the batch of {path} to {q.shape[0]}, "
                             f"where there are {rows} frames of {len(call.branches)} conditions; remove that patch.")
        return call.attention(path, kind, q, k, v, options["n_heads"])

    return attention
