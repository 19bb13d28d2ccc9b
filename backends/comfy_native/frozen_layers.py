"""Gradients through frozen layers whose weights autograd must not keep.

The host's loaded weights are inference tensors, may live on another device than the one that computes, may be
stored in fp8, and may be paged out right after forward: a weight saved for backward would be an error or
garbage. So each layer runs the host's own forward inside an autograd Function that saves no weight, and
backward asks the host for the weight again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import comfy.ops
import torch
import torch.nn.functional as F

from .forwards import forward_replaced

if TYPE_CHECKING:
    from torch import Tensor, nn

CONVOLUTION_GRADIENTS = {1: torch.nn.grad.conv1d_input, 2: torch.nn.grad.conv2d_input, 3: torch.nn.grad.conv3d_input}


@contextmanager
def borrowed_weights(layer: nn.Module, like: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Weight and bias as the host would use them now (patched, cast, on the device), in ``like``'s dtype."""
    weight, bias, stream = comfy.ops.cast_bias_weight(layer, like, offloadable=True)
    try:
        yield plain_weight(weight), bias
    finally:
        comfy.ops.uncast_bias_weight(layer, weight, bias, stream)


def plain_weight(weight: Tensor) -> Tensor:
    """A quantised weight as an ordinary tensor."""
    quantised = getattr(comfy.ops, "QuantizedTensor", None)
    return weight.dequantize() if quantised is not None and isinstance(weight, quantised) else weight


def _norm(layer: nn.Module, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if isinstance(layer, torch.nn.GroupNorm):
        return F.group_norm(x, layer.num_groups, weight, bias, layer.eps)
    if isinstance(layer, torch.nn.RMSNorm):
        return F.rms_norm(x, layer.normalized_shape, weight, layer.eps)
    return F.layer_norm(x, layer.normalized_shape, weight, bias, layer.eps)


class FrozenLinear(torch.autograd.Function):
    """y = x W^T + b with dL/dx = (dL/dy) W; saves nothing."""

    @staticmethod
    def forward(ctx, x: Tensor, layer: nn.Module, host_forward: Callable) -> Tensor:
        ctx.layer = layer
        return host_forward(x)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        with borrowed_weights(ctx.layer, gradient) as (weight, _):
            return gradient @ weight, None, None


class FrozenConvolution(torch.autograd.Function):
    """A convolution with dL/dx by the transposed convolution; saves the shape of x."""

    @staticmethod
    def forward(ctx, x: Tensor, layer: nn.Module, host_forward: Callable) -> Tensor:
        ctx.layer, ctx.shape = layer, x.shape
        return host_forward(x)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        layer = ctx.layer
        with borrowed_weights(layer, gradient) as (weight, _):
            input_gradient = CONVOLUTION_GRADIENTS[weight.ndim - 2]
            # The weights may be inference tensors, which only code under no_grad may read: backward runs there.
            x = input_gradient(ctx.shape, weight, gradient, layer.stride, layer.padding, layer.dilation, layer.groups)
            return x, None, None


class FrozenNorm(torch.autograd.Function):
    """Group, layer or root mean square normalisation; saves x and computes the norm again in float32."""

    @staticmethod
    def forward(ctx, x: Tensor, layer: nn.Module, host_forward: Callable) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(x)
        return host_forward(x)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (x,) = ctx.saved_tensors
        with borrowed_weights(ctx.layer, gradient) as (weight, bias), torch.enable_grad():
            # Clones, because autograd refuses to keep an inference tensor, and norms are small.
            weight, bias = (None if w is None else w.detach().float().clone() for w in (weight, bias))
            x = x.detach().float().requires_grad_(True)
            (x_gradient,) = torch.autograd.grad(_norm(ctx.layer, x, weight, bias), x, gradient.float())
        return x_gradient.to(gradient.dtype), None, None


def frozen_function(layer: nn.Module) -> type[torch.autograd.Function]:
    """The Function for one layer of a network.

    Raises:
        TypeError: a kind of layer that neither SD U-Nets nor the video transformers have.
    """
    if isinstance(layer, (torch.nn.GroupNorm, torch.nn.LayerNorm, torch.nn.RMSNorm)):
        return FrozenNorm
    dimensions = getattr(getattr(layer, "weight", None), "ndim", 0)
    if isinstance(layer, torch.nn.Linear) or (dimensions == 2 and hasattr(layer, "in_features")):
        return FrozenLinear
    if dimensions - 2 in CONVOLUTION_GRADIENTS and hasattr(layer, "stride"):
        return FrozenConvolution
    raise TypeError(f"model: cannot train through a layer of kind {type(layer).__name__}; "
                    "use a model in the form in which the host loads it.")


def frozen_forward(layer: nn.Module, matrices: Sequence[Tensor] = ()) -> Callable:
    """Forward of a frozen layer, plus ``x M_1^T M_2^T ...`` where a trained difference goes beside it."""
    function, host_forward = frozen_function(layer), layer.forward

    def forward(x: Tensor) -> Tensor:
        if x.requires_grad:
            y = function.apply(x, layer, host_forward)
        else:
            with torch.no_grad():
                y = host_forward(x)
        if not matrices:
            return y
        beside = x
        for matrix in matrices:
            beside = F.linear(beside, matrix.to(x.dtype))
        return y + beside

    return forward


@contextmanager
def casting(layer: nn.Module) -> Iterator[None]:
    """Let the host cast the layer's weights to its input, inside the ``with``."""
    before = layer.__dict__.get("comfy_cast_weights")
    layer.comfy_cast_weights = True
    try:
        yield
    finally:
        if before is None:
            del layer.comfy_cast_weights
        else:
            layer.comfy_cast_weights = before


@contextmanager
def frozen_layers(
    unet: nn.Module, deltas: Mapping[nn.Module, Sequence[Tensor]], instead: Mapping[nn.Module, Callable] | None = None
) -> Iterator[None]:
    """All layers of a U-Net frozen and differentiable, inside the ``with``.

    Args:
        unet: the host's module.
        deltas: trained differences of projections by layer, float32: one matrix [out, in], or LoRA's two,
            [rank, in] and [out, rank].
        instead: forwards of layers that something trained answers for.
    """
    instead = instead or {}
    with ExitStack() as stack:
        for layer in unet.modules():
            if next(layer.parameters(recurse=False), None) is None:
                continue
            if hasattr(layer, "comfy_cast_weights"):
                stack.enter_context(casting(layer))
            forward = instead[layer] if layer in instead else frozen_forward(layer, deltas.get(layer, ()))
            stack.enter_context(forward_replaced(layer, forward))
        yield
