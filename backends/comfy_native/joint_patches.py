"""What a plan replaces in one call of a diffusion transformer: the host's override of every attention."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import TYPE_CHECKING, Any

from .joint_blocks import layout_of, site_of
from .planned_run import CALL, PlannedCall

if TYPE_CHECKING:
    from torch import Tensor

    from ...methods.via.joint_attention import TokenLayout

OVERRIDE = "optimized_attention_override"


def run_joint(executor, *args, **kwargs):
    """``WrappersMP.DIFFUSION_MODEL``: one call of the transformer, in a plan's call with its joint attentions
    replaced."""
    bound = signature(executor.original).bind(*args, **kwargs)
    given = bound.arguments
    options = given.get("transformer_options") or {}
    call: PlannedCall | None = options.get(CALL)
    if call is None:
        return executor(*args, **kwargs)
    tokens = layout_of(executor.class_obj, given)
    given["transformer_options"] = {**options, OVERRIDE: override(call, tokens, tuple(options["uuids"]),
                                                                 options.get(OVERRIDE))}  # fmt: skip
    return executor(*bound.args, **bound.kwargs)


def override(call: PlannedCall, tokens: TokenLayout, branches: tuple, inner: Callable | None) -> Callable:
    """The attention of one call; ``inner`` is another node's override, which computes what ours asks for."""

    def attention(func: Callable, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None,
                  **how: Any) -> Tensor:
        options = how["transformer_options"]
        path = site_of(options["block_type"], options["block_index"])

        def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
            return inner(func, q, k, v, heads, mask=mask, **how) if inner else func(q, k, v, heads, mask=mask, **how)

        replaced: Any = call.replaced
        if path not in replaced.sites:
            return attend(q, k, v, mask)
        if q.shape[0] != call.rows * len(branches) or q.shape[2] != tokens.total or k.shape[2] != tokens.total:
            raise ValueError(f"model: another patch changed the tokens of {path} to {q.shape[0]} rows of {q.shape[2]} "
                             f"queries and {k.shape[2]} keys, where {call.method} knows {call.rows * len(branches)} "
                             f"rows of {tokens.total}; remove that patch.")
        return replaced.joint(path, q, k, v, tokens, branches, attend, mask)

    return attention
