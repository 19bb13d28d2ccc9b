"""What a plan replaces in one call of the U-Net, as the host's own patches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from ..forwards import forward_replaced
from .blocks import refuse_second_owner, replace_key
from .planned_run import CALL, PlannedCall

if TYPE_CHECKING:
    from torch import Tensor, nn


def attention_patches(options: Mapping[str, Any]) -> tuple[dict[str, dict[tuple[str, int, int], Callable]], list]:
    """Replacements of attentions by kind ("self", "cross") and the host's key, and what is to run on the input of
    self-attention; nothing in a plain call.

    Raises:
        ValueError: another pack replaces the same attention of the same block.
    """
    call: PlannedCall | None = options.get(CALL)
    if call is None:
        return {}, []
    patches: dict[str, Any] = {}
    inputs: dict[tuple, Tensor] = {}
    for kind in call.replaced.kinds:
        refuse_second_owner(options.get("patches_replace", {}), kind, call.replaced.sites, call.method)
        patches[kind] = {replace_key(path): patch(call, path, kind, tuple(options["uuids"]), inputs)
                         for path in call.replaced.sites}  # fmt: skip

    def note(n: Tensor, context: Tensor, value: Tensor, here: dict) -> tuple[Tensor, Tensor, Tensor]:
        inputs[(*here["block"], here["block_index"])] = n
        return n, context, value

    return patches, [note] if call.replaced.reads_input else []


def patch(call: PlannedCall, path: str, kind: str, branches: tuple, inputs: dict[tuple, Tensor]) -> Callable:
    """One attention of a call as the host's replacement of softmax(QK^T)V."""

    def attention(q: Tensor, k: Tensor, v: Tensor, options: dict) -> Tensor:
        check_rows(call, path, kind, len(q), branches)
        x = inputs.pop(replace_key_of(options), None) if kind == "self" else None
        return call.replaced.attention(path, kind, q, k, v, options["n_heads"], branches, x)

    return attention


def exchanges(options: Mapping[str, Any]) -> tuple[dict[tuple, Callable], dict[tuple, Callable]]:
    """The self-attentions of a call whose input is exchanged, by the host's key.

    Returns:
        the host's replacements, each frame by itself; and the exchanges alone, (q, k, v) -> (q, k, v), for what lets
        frames see each other.

    Raises:
        ValueError: another pack replaces one of these attentions.
    """
    call: PlannedCall | None = options.get(CALL)
    if call is None or not call.replaced.exchanges:
        return {}, {}
    refuse_second_owner(options.get("patches_replace", {}), "self", call.replaced.sites, call.method)
    both = {replace_key(path): exchange(call, path, tuple(options["uuids"])) for path in call.replaced.sites}
    return {key: alone for key, (alone, _) in both.items()}, {key: change for key, (_, change) in both.items()}


def exchange(call: PlannedCall, path: str, branches: tuple) -> tuple[Callable, Callable]:
    """One self-attention with its input exchanged, and the exchange alone."""

    def alone(q: Tensor, k: Tensor, v: Tensor, options: dict) -> Tensor:
        check_rows(call, path, "self", len(q), branches)
        return call.replaced.exchanged(path, q, k, v, options["n_heads"], branches)

    def change(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        check_rows(call, path, "self", len(q), branches)
        return call.replaced.exchange(path, q, k, v, branches)

    return alone, change


def check_rows(call: PlannedCall, path: str, kind: str, rows: int, branches: tuple) -> None:
    """Raise ValueError where an attention sees other rows than those of the call."""
    if rows != call.rows * len(branches):
        raise ValueError(f"model: another patch of {kind}-attention changed the batch of {path} to {rows}, "
                         f"where there are {call.rows} frames of {len(branches)} conditions; remove that patch.")


def replace_key_of(options: Mapping[str, Any]) -> tuple:
    """The host's key of the block at work."""
    return (*options["block"], options["block_index"])


@contextmanager
def residuals_replaced(unet: nn.Module, options: Mapping[str, Any]) -> Iterator[None]:
    """The residual blocks of a call with the plan's branch, inside the ``with``: their last convolution gives what is
    added to the skip."""
    call: Any = options.get(CALL)  # a PlannedCall
    with ExitStack() as stack:
        for path in () if call is None else call.replaced.residuals:
            layer = unet.get_submodule(path).out_layers[-1]

            def forward(h: Tensor, path: str = path, convolve: Callable = layer.forward) -> Tensor:
                return call.replaced.residual(path, convolve(h), tuple(options["uuids"]))

            stack.enter_context(forward_replaced(layer, forward))
        yield
