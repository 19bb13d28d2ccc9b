"""Gradients through frozen layers whose weights autograd must not keep.

The host's loaded weights are inference tensors, may live on another device than the one that computes, may be
stored in fp8, and may be paged out right after forward: a weight saved for backward would be an error or
garbage. So each layer runs the host's own forward inside an autograd Function that saves no weight, and
backward asks the host for the weight again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import comfy.ops
import torch
import torch.nn.functional as F

from ..forwards import forward_replaced

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Values of a norm whose gradient is worked out at once.
NORM_VALUES = 2**22
CONVOLUTION_GRADIENTS = {1: torch.nn.grad.conv1d_input, 2: torch.nn.grad.conv2d_input, 3: torch.nn.grad.conv3d_input}


@contextmanager
def borrowed_weights(layer: nn.Module, like: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Weight and bias as the host would use them now (patched, cast, on the device), in ``like``'s dtype."""
    if at_hand(layer, like):
        yield layer.weight, layer.bias
        return
    weight, bias, stream = comfy.ops.cast_bias_weight(layer, like, offloadable=True)
    try:
        yield plain_weight(weight), bias
    finally:
        comfy.ops.uncast_bias_weight(layer, weight, bias, stream)


def at_hand(layer: nn.Module, like: Tensor) -> bool:
    """Whether the host would lend a layer's own tensors as they lie there: then it need not be asked."""
    paged = hasattr(layer, "_v")
    if paged or getattr(layer, "weight_function", None) or getattr(layer, "bias_function", None):
        return False
    weight, bias = layer.weight, getattr(layer, "bias", None)
    if weight is None or not hasattr(layer, "bias") or plain_weight(weight) is not weight:
        return False
    return all((w.device, w.dtype) == (like.device, like.dtype) for w in (weight, bias) if w is not None)


def plain_weight(weight: Tensor) -> Tensor:
    """A quantised weight as an ordinary tensor."""
    quantised = getattr(comfy.ops, "QuantizedTensor", None)
    return weight.dequantize() if quantised is not None and isinstance(weight, quantised) else weight


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


class FrozenLinearWithLoRA(torch.autograd.Function):
    """y = x W^T + b + (x A^T) B^T with gradients for x, A and B; saves x, A and B.

    What goes to x is added up in place: as two tensors the sum would take three of x's size for a moment.
    """

    @staticmethod
    def forward(ctx, x: Tensor, down: Tensor, up: Tensor, layer: nn.Module, host_forward: Callable) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(x, down, up)
        return add_low_rank(host_forward(x), x, down, up)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        x, down, up = ctx.saved_tensors
        x_gradient = None
        through, down_gradient, up_gradient = low_rank_gradients(gradient, x, down, up)
        if ctx.needs_input_grad[0]:
            with borrowed_weights(ctx.layer, gradient) as (weight, _):
                x_gradient = gradient.reshape(-1, gradient.shape[-1]) @ weight
            x_gradient = x_gradient.addmm_(through, down.to(gradient.dtype)).reshape(x.shape)
        return x_gradient, down_gradient, up_gradient, None, None


def add_low_rank(y: Tensor, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """y + (x A^T) B^T, y [..., out] changed in place; products in x's dtype, A and B float32."""
    rows = y.view(-1, y.shape[-1]) if y.is_contiguous() else y.reshape(-1, y.shape[-1])
    inner = x.reshape(-1, x.shape[-1]) @ down.to(x.dtype).T
    return rows.addmm_(inner, up.to(x.dtype).T).view(y.shape)


def low_rank_gradients(gradient: Tensor, x: Tensor, down: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(dL/dy) B of (x A^T) B^T, and the gradients of A and B in their own dtypes."""
    gradient, x = gradient.reshape(-1, gradient.shape[-1]), x.reshape(-1, x.shape[-1])
    through = gradient @ up.to(gradient.dtype)
    inner = x @ down.to(x.dtype).T
    return through, (through.T @ x).to(down.dtype), (gradient.T @ inner).to(up.dtype)


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
    """Group, layer or root mean square normalisation; saves x. Its gradient is worked out in float32, some rows at a
    time.
    """

    @staticmethod
    def forward(ctx, x: Tensor, layer: nn.Module, host_forward: Callable) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(x)
        return host_forward(x)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (x,) = ctx.saved_tensors
        with borrowed_weights(ctx.layer, gradient) as (weight, _):
            return norm_gradient(ctx.layer, x, gradient, weight), None, None


def norm_gradient(layer: nn.Module, x: Tensor, gradient: Tensor, weight: Tensor | None) -> Tensor:
    """dL/dx = (h - mean(h) - n mean(h n)) / s of y = n w + b, n = (x - mean(x)) / s, with h = w dL/dy.

    Means are over what the layer normalises; a root mean square norm subtracts none. In float32, out in x's dtype.

    Args:
        x, gradient: of a group norm [batch, channels, ...], else [..., normalised].
        weight: w, or None.
    """
    grouped = isinstance(layer, torch.nn.GroupNorm)
    rows = (len(x) * layer.num_groups, -1) if grouped else (-1, math.prod(layer.normalized_shape))
    centred = not isinstance(layer, torch.nn.RMSNorm)
    wide = torch.promote_types(x.dtype, torch.float32)
    epsilon = torch.finfo(x.dtype).eps if layer.eps is None else layer.eps
    if weight is not None and grouped:
        gradient = gradient * weight.reshape(-1, *[1] * (x.ndim - 2))
        weight = None
    scale = None if weight is None else weight.reshape(-1).to(wide)
    x_rows, gradient_rows = x.reshape(rows), gradient.reshape(rows)
    out = torch.empty_like(x_rows)
    at_once = max(1, NORM_VALUES // x_rows.shape[1])
    for part in (slice(start, start + at_once) for start in range(0, len(out), at_once)):
        h = gradient_rows[part].to(wide)
        h = h if scale is None else h * scale
        n = x_rows[part].to(wide)
        n = n - n.mean(1, keepdim=True) if centred else n
        inverse = (n.square().mean(1, keepdim=True) + epsilon).rsqrt()
        n = n * inverse
        h = h - n * (h * n).mean(1, keepdim=True) - (h.mean(1, keepdim=True) if centred else 0)
        out[part] = h * inverse
    return out.reshape(x.shape)


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
        if len(matrices) == 2 and function is FrozenLinear:
            return FrozenLinearWithLoRA.apply(x, *matrices, layer, host_forward)
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
