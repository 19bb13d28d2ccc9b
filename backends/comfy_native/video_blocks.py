"""The host's video transformers with frozen layers, trained LoRA beside them, and blocks computed again in backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any
from unittest.mock import patch as replaced_name

import comfy.ldm.flux.math
import comfy.ldm.qwen_image.model
import comfy.ldm.wan.model
import comfy.model_management
import torch
import torch.nn.functional as F
from comfy.ldm.wan.model import WanAttentionBlock
from torch.utils.checkpoint import checkpoint

from ..forwards import forward_replaced
from ..offload import offloaded
from .feed_forward import feed_forward, is_feed_forward
from .frozen_layers import casting, frozen_forward

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .video_network import VideoNetwork


def rotated(x: Tensor, frequencies: Tensor) -> Tensor:
    """Rotary embedding by PyTorch's own operations: the host's fused one may have no backward.

    Args:
        x: [batch, tokens, heads, d] or [batch, heads, tokens, d].
        frequencies: rotations [..., d / 2, 2, 2], float32.
    """
    pairs = x.to(frequencies.dtype).reshape(*x.shape[:-1], -1, 1, 2)
    out = frequencies[..., 0] * pairs[..., 0] + frequencies[..., 1] * pairs[..., 1]
    return out.reshape(x.shape).type_as(x)


@contextmanager
def differentiable_rotation() -> Iterator[None]:
    """Rotary embeddings with a backward; hosts that know of training have it by ``in_training``."""
    if hasattr(comfy.model_management, "in_training"):
        yield
        return

    def both(q: Tensor, k: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
        return rotated(q, frequencies), rotated(k, frequencies)

    with (
        replaced_name.object(comfy.ldm.wan.model, "apply_rope1", rotated),
        replaced_name.object(comfy.ldm.flux.math, "apply_rope", both),
        replaced_name.object(comfy.ldm.qwen_image.model, "apply_rope1", rotated),
    ):
        yield


@dataclass
class Pass:
    """Which pass through a block is running.

    Args:
        again: the one in backward, whose output nobody reads.
    """

    again: bool = False


def recomputed(block: Callable, copied: bool, running: Pass, offload: bool) -> Callable:
    """Forward of a block that keeps its input alone and is computed again in backward.

    Args:
        block: the block's own forward.
        copied: hand it copies: HunyuanVideo's blocks add to their input in place, and would compute something else
            the second time.
        running: is told which pass it is.
        offload: the input waits in the main memory.
    """

    def forward(*args: Any, **kwargs: Any) -> Any:
        if "transformer_options" in kwargs:
            # The host goes on writing the block's number into the same dict.
            kwargs["transformer_options"] = dict(kwargs["transformer_options"])
        passes = count()

        def run(*args: Any, **kwargs: Any) -> Any:
            if copied:
                args = tuple(a.clone() if _grows(a) else a for a in args)
                kwargs = {k: v.clone() if k in ("img", "txt", "x") and _grows(v) else v for k, v in kwargs.items()}
            running.again = next(passes) > 0
            try:
                return block(*args, **kwargs)
            finally:
                running.again = False

        # Only what comes by its place is kept by autograd, and can be moved.
        names = [key for key in ("img", "txt", "x") if _grows(kwargs.get(key))]
        given = (*args, *(kwargs.pop(key) for key in names))
        places = len(args)

        # Autograd keeps this function: what it would hold of the inputs would stay beside their copies.
        def placed(*given: Any) -> Any:
            return run(*given[:places], **dict(zip(names, given[places:], strict=True)), **kwargs)

        tokens = next((value for value in given if _grows(value)), None)
        with offloaded(tokens) if offload and tokens is not None else nullcontext():
            return checkpoint(placed, *given, use_reentrant=False, preserve_rng_state=False)

    return forward


def _grows(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim == 3


def of_a_copy(layer: nn.Module) -> Callable:
    """Forward of a norm that keeps a copy of its input for backward: HunyuanVideo changes the input afterwards."""
    before = layer.forward
    return lambda x: before(x.clone())


def scaled_norm(layer: nn.Module) -> Callable:
    """Forward of older hosts' root mean square norm, whose weight ``scale`` is small enough to be copied."""
    return lambda x: F.rms_norm(x, layer.scale.shape, layer.scale.detach().to(x, copy=True), 1e-6)


@contextmanager
def gradients_off(module: nn.Module) -> Iterator[None]:
    """No parameter of the module takes a gradient inside the ``with``."""
    wanted = [p for p in module.parameters() if p.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        # Inference tensors allow this direction inside inference mode only.
        for parameter in wanted:
            with torch.inference_mode(parameter.is_inference()):
                parameter.requires_grad_(True)


@contextmanager
def frozen_transformer(
    network: VideoNetwork, beside: Mapping[nn.Module, tuple[Tensor, Tensor]], offloaded_blocks: int = 0,
    whole_blocks: int = 0,
) -> Iterator[None]:
    """The network frozen and differentiable, inside the ``with``.

    Args:
        beside: (A, B) of a LoRA by the layer that it goes beside, float32.
        offloaded_blocks: how many blocks' inputs wait in the main memory.
        whole_blocks: how many of the last ones are not computed again.
    """
    in_place, running, blocks = network.in_place, Pass(), list(network.blocks.values())
    again = len(blocks) - whole_blocks
    with ExitStack() as stack:
        stack.enter_context(gradients_off(network.module))
        stack.enter_context(differentiable_rotation())
        # What is replaced is asked first: a layer that another pack answers for stays in its hands.
        wide = {
            module: feed_forward(module, [beside.get(layer, ()) for layer in list(module.children())[::2]],
                                 partial(_nobody_reads, running, _ends_with_it(block)), number >= again)
            for number, block in enumerate(blocks) for module in block.children() if is_feed_forward(module)
        }  # fmt: skip
        for layer in network.module.modules():
            if next(layer.children(), None) is not None or isinstance(layer, torch.nn.Embedding):
                # Its own parameters, such as Wan's modulation or a table, are only added and keep no graph.
                continue
            if next(layer.parameters(recurse=False), None) is not None:
                if hasattr(layer, "comfy_cast_weights"):
                    stack.enter_context(casting(layer))
                pair = beside.get(layer, ())
                forward = scaled_norm(layer) if hasattr(layer, "scale") else frozen_forward(layer, pair)
                stack.enter_context(forward_replaced(layer, forward))
            elif in_place and isinstance(layer, torch.nn.LayerNorm):
                stack.enter_context(forward_replaced(layer, of_a_copy(layer)))
        for module, forward in wide.items():
            stack.enter_context(forward_replaced(module, forward))
        for number, block in enumerate(blocks[:again]):
            stack.enter_context(forward_replaced(
                block, recomputed(block.forward, in_place, running, number < offloaded_blocks)))  # fmt: skip
        yield


def _ends_with_it(block: nn.Module) -> bool:
    """Whether a block's pass in backward has done its work once it reaches the feed-forward."""
    return type(block) is WanAttentionBlock and "forward" not in vars(block)


def _nobody_reads(running: Pass, ends: bool) -> bool:
    return running.again and ends
