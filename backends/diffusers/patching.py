"""Attaching by forward replacement: instance attributes, set around a call and taken away after it.

``instance.forward = f`` hides the class's forward without touching the module tree, so no
key is renamed, and ``del instance.forward`` brings the class's back. What another library
may have put there before is put back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch.nn.functional as F
from einops import rearrange
from torch.utils.checkpoint import checkpoint

from ...methods.attachment import OUTPUTS, Attachment, FrameLayout, FrameMixing
from ...methods.lora import PROJECTIONS
from ..forwards import forward_replaced, input_recorded
from .norms import replaced_norms
from .paths import LocatedBlock, layers, locate

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ...methods.sampling_plan import Replacement

#: Tokens of a clip from which on a block is computed again in backward instead of kept:
#: SD1.x at 8 frames of 512x512 passes it on its outer stages, the toy U-Net nowhere.
RECOMPUTE_TOKENS = 8192


@dataclass
class Batch:
    """The frame layout of the call under way, as far as the caller knows it, the names of its branches, and what a
    plan replaces in it."""

    branches: int = 1
    frames: int = 1
    names: tuple[str, ...] = ("",)
    replaced: Replacement | None = None


@contextmanager
def map_size_recorded(transformer: nn.Module, size: list[int]) -> Iterator[None]:
    """Keep the height and width of the transformer's input in ``size``."""

    def record(module, args, kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        size[:] = hidden.shape[-2:]

    handle = transformer.register_forward_pre_hook(record, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def replaced_attention(attention: nn.Module, mix: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Callable:
    """Forward of a self- or cross-attention whose softmax(QK^T)V is ``mix(q, k, v, x)``, x what q is projected from."""

    def forward(hidden_states: Tensor, encoder_hidden_states=None, attention_mask=None, **kwargs) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        mixed = mix(attention.to_q(hidden_states), attention.to_k(context), attention.to_v(context), hidden_states)
        for layer in attention.to_out:
            mixed = layer(mixed)
        return mixed

    return forward


def attending(attention: nn.Module, mixing: FrameMixing, layout: Callable[[], FrameLayout]) -> Callable:
    """``mix`` of ``replaced_attention`` by a ``FrameMixing``."""
    return lambda q, k, v, x: mixing(q, k, v, attention.heads, layout())


def exchanges(batch: Batch, path: str) -> bool:
    """Whether a plan exchanges what goes into the self-attention of a block."""
    return batch.replaced is not None and batch.replaced.exchanges and path in batch.replaced.sites


def exchanged(mix: Callable, path: str, batch: Batch) -> Callable:
    """``mix`` of what a plan makes of q, k, v, where it does."""
    planned = batch.replaced
    if planned is None or not exchanges(batch, path):
        return mix
    return lambda q, k, v, x: mix(*planned.exchange(path, q, k, v, batch.names), x)


def planned_attention(attention: nn.Module, path: str, kind: str, planned: Replacement, batch: Batch) -> Callable:
    """Forward of an attention whose softmax(QK^T)V is ``planned``'s."""
    return replaced_attention(attention, lambda q, k, v, x: planned.attention(
        path, kind, q, k, v, attention.heads, batch.names, x))


def planned_residuals(unet: nn.Module, batch: Batch) -> Iterator:
    """The context managers that the residual blocks of ``batch.replaced`` need: their last convolution gives the
    branch that is added to the skip."""
    planned = batch.replaced
    for path, block in layers(unet) if planned is not None and planned.residuals else ():
        if planned is not None and path in planned.residuals:

            def forward(h: Tensor, path: str = path, convolve: Callable = block.conv2.forward) -> Tensor:
                return planned.residual(path, convolve(h), batch.names)

            yield forward_replaced(block.conv2, forward)


def extended_block(block: nn.Module, modules: Sequence[nn.Module], layout: Callable[[], FrameLayout],
                   recompute_from: int | None) -> Callable:
    """Forward of a transformer block with ``modules`` after its feed-forward, computed again
    in backward where a clip has at least ``recompute_from`` tokens."""
    original = block.forward

    def run(hidden_states: Tensor, *args, **kwargs) -> Tensor:
        return apply_modules(original(hidden_states, *args, **kwargs), modules, layout)

    def forward(hidden_states: Tensor, *args, **kwargs) -> Tensor:
        if recompute_from is not None and hidden_states.shape[0] * hidden_states.shape[1] >= recompute_from:
            return checkpoint(run, hidden_states, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
        return run(hidden_states, *args, **kwargs)

    return forward


def with_modules_after(part: nn.Module, modules: Sequence[nn.Module], layout: Callable[[], FrameLayout],
                       tokens: list[Tensor]) -> Callable:
    """Forward of a part of a transformer block with ``modules`` on its output; see ``input_recorded``."""
    original = part.forward

    def forward(*args, **kwargs) -> Tensor:
        return apply_modules(original(*args, **kwargs), modules, layout, tokens.pop() if tokens else None)

    return forward


def with_modules_before(transformer: nn.Module, modules: Sequence[nn.Module], layout: Callable[[], FrameLayout],
                        recompute_from: int | None) -> Callable:
    """Forward of a transformer with ``modules`` on the feature map that goes in; see ``extended_block``."""
    original = transformer.forward

    def run(feature_map: Tensor) -> Tensor:
        height, width = feature_map.shape[-2:]
        z = rearrange(feature_map, "frames c height width -> frames (height width) c")
        z = apply_modules(z, modules, layout)
        return rearrange(z, "frames (height width) c -> frames c height width", height=height, width=width)

    def forward(hidden_states: Tensor, *args, **kwargs):
        tokens = hidden_states.shape[0] * hidden_states.shape[-2:].numel()
        if recompute_from is not None and tokens >= recompute_from:
            changed = checkpoint(run, hidden_states, use_reentrant=False, preserve_rng_state=False)
        else:
            changed = run(hidden_states)
        return original(changed, *args, **kwargs)

    return forward


def apply_modules(out: Tensor, modules: Sequence[nn.Module], layout: Callable[[], FrameLayout],
                  tokens: Tensor | None = None) -> Tensor:
    """The modules one after another, each in the float width of its own weights; ``tokens`` for those ``beside``."""
    for module in modules:
        width = next(module.parameters()).dtype
        more = (tokens.to(width),) if tokens is not None and getattr(module, "beside", False) else ()
        out = module(out.to(width), layout(), *more).to(out.dtype)
    return out


def shifted_linear(linear: nn.Linear, delta: Tensor) -> Callable:
    """Forward of a linear layer with weight W + delta."""

    def forward(x: Tensor) -> Tensor:
        weight = linear.weight + delta.to(linear.weight)
        return F.linear(x, weight, linear.bias)

    return forward


def _patches(located: LocatedBlock, attachments: Sequence[Attachment], deltas: Mapping[str, Tensor],
             batch: Batch, size: list[int], recompute_from: int | None) -> Iterator:
    """The context managers that one block needs."""
    path, block = located.site.path, located.block

    def layout() -> FrameLayout:
        return FrameLayout(batch.branches, batch.frames, *size)

    for name in PROJECTIONS:
        delta = deltas.get(f"{path}.{name}.weight")
        if delta is not None:
            linear = block.get_submodule(name)
            yield forward_replaced(linear, shifted_linear(linear, delta))
    here = [a for a in attachments if path in a.sites]
    for attachment in here:
        if attachment.mixing is not None:
            mix = attending(block.attn1, attachment.mixing, layout)
            yield forward_replaced(block.attn1, replaced_attention(block.attn1, exchanged(mix, path, batch)))
    planned = batch.replaced
    if planned is not None and exchanges(batch, path) and not any(attachment.mixing for attachment in here):
        yield forward_replaced(block.attn1, replaced_attention(block.attn1, lambda q, k, v, x: planned.exchanged(
            path, q, k, v, block.attn1.heads, batch.names)))
    if batch.replaced is not None and path in batch.replaced.sites:
        for kind in batch.replaced.kinds:
            attention = {"self": block.attn1, "cross": block.attn2}[kind]
            yield forward_replaced(attention, planned_attention(attention, path, kind, batch.replaced, batch))
    key = located.site.key
    for part, norm in OUTPUTS.items():
        outputs = [a.outputs[f"{key}/{part}"] for a in here if a.outputs is not None and f"{key}/{part}" in a.outputs]
        if outputs := [module for module in outputs if module.strength != 0]:
            tokens: list[Tensor] = []
            inner = block.get_submodule(part)
            if any(getattr(module, "beside", False) for module in outputs):
                yield input_recorded(block.get_submodule(norm), tokens)
            yield forward_replaced(inner, with_modules_after(inner, outputs, layout, tokens))
    modules = [a.modules[key] for a in here if a.modules is not None and key in a.modules]
    if modules or recompute_from is not None:
        yield forward_replaced(block, extended_block(block, modules, layout, recompute_from))


def _input_patches(located: LocatedBlock, attachments: Sequence[Attachment], batch: Batch, size: list[int],
                   recompute_from: int | None) -> Iterator:
    """The context managers that a transformer as a whole needs."""
    key = located.site.transformer_key
    modules = [a.inputs[key] for a in attachments if a.inputs is not None and key in a.inputs]
    if modules:
        yield forward_replaced(located.transformer, with_modules_before(
            located.transformer, modules, lambda: FrameLayout(batch.branches, batch.frames, *size), recompute_from))


@contextmanager
def attached(unet: nn.Module, attachments: Sequence[Attachment], deltas: Mapping[str, Tensor], batch: Batch,
             recompute_from: int | None = None) -> Iterator[None]:
    """Patch the U-Net inside the ``with``; on leaving, by whatever road, it is as before.

    Args:
        unet: a ``UNet2DConditionModel``.
        attachments: methods, in order.
        deltas: differences of projection weights, by ``<site path>.<name>.weight`` with the
            names of ``methods.lora.PROJECTIONS``.
        batch: read at every forward, so that the caller may change it between calls; what
            ``batch.replaced`` replaces is settled on entry.
        recompute_from: see ``extended_block``; without it nothing is computed twice.
    """
    with ExitStack() as stack:
        if attachments or deltas or recompute_from is not None:
            sizes: dict[int, list[int]] = {}
            for located in locate(unet):
                transformer = located.transformer
                if id(transformer) not in sizes:
                    sizes[id(transformer)] = []
                    stack.enter_context(map_size_recorded(transformer, sizes[id(transformer)]))
                    for patch in _input_patches(located, attachments, batch, sizes[id(transformer)], recompute_from):
                        stack.enter_context(patch)
                size = sizes[id(transformer)]
                for patch in _patches(located, attachments, deltas, batch, size, recompute_from):
                    stack.enter_context(patch)
        for patch in planned_residuals(unet, batch):
            stack.enter_context(patch)
        for layer, forward in replaced_norms(unet, attachments, lambda: batch.branches):
            stack.enter_context(forward_replaced(layer, forward))
        yield
