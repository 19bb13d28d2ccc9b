"""The adjustable norm as torch's own norm and one multiply-add in its output: no further tensor of z's size.

A true single pass (statistics, then z a + b with a and b per sample and channel) is slower in plain torch: its
statistics alone (``var_mean``) take longer on a CPU than the whole of ``native_group_norm``, which reads z while it
is in the cache. The multiply-add runs in place, so that where gamma0 is 0 the result is the norm's to the bit.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def adjustable_norm_native(
    z: Tensor, weight: Tensor | None, bias: Tensor | None, gamma0: Tensor | None, groups: int, eps: float
) -> Tensor:
    """See ``adjustable_norm``; keeps z and the statistics for backward, nothing else of z's size."""
    wide = torch.float64 if z.dtype == torch.float64 else torch.float32
    weight, bias, gamma0 = (None if t is None else t.to(wide) for t in (weight, bias, gamma0))
    return _AdjustableNorm.apply(z.to(wide), weight, bias, gamma0, groups, eps).to(z.dtype)


class _AdjustableNorm(Function):
    @staticmethod
    def forward(
        ctx, x: Tensor, weight: Tensor | None, bias: Tensor | None, gamma0: Tensor | None, groups: int, eps: float
    ) -> Tensor:
        x = _dense(x)
        if groups:
            out, mean, rstd = torch.native_group_norm(x, weight, bias, *_sizes(x), groups, eps)
        else:
            out, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], weight, bias, eps)
        if gamma0 is not None:
            out.addcmul_(_of_channels(gamma0, x, groups), x)
        ctx.save_for_backward(x, weight, bias, gamma0, mean, rstd)
        ctx.groups = groups
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple:
        x, weight, bias, gamma0, mean, rstd = ctx.saved_tensors
        gradient, asked = _dense(gradient), list(ctx.needs_input_grad[:3])
        if ctx.groups:
            if gradient.stride() != x.stride():
                gradient = torch.empty_like(x).copy_(gradient)
            # Always asked for x: without it this operator reads past memory on a CPU where channels are last.
            found = torch.ops.aten.native_group_norm_backward(
                gradient, x, mean, rstd, weight, *_sizes(x), ctx.groups, [True, *asked[1:]]
            )
        else:
            found = torch.ops.aten.native_layer_norm_backward(
                gradient, x, x.shape[-1:], mean, rstd, weight, bias, asked
            )
        of_x, of_weight, of_bias = found
        of_gamma0 = None
        if gamma0 is not None:
            if asked[0]:
                of_x.addcmul_(_of_channels(gamma0, x, ctx.groups), gradient)
            if ctx.needs_input_grad[3]:
                of_gamma0 = _products(x, gradient, ctx.groups)
                of_gamma0 = of_gamma0.sum(0, keepdim=True) if gamma0.shape[0] == 1 else of_gamma0
        return of_x if asked[0] else None, of_weight, of_bias, of_gamma0, None, None


def _dense(x: Tensor) -> Tensor:
    """As torch's norms ask for it: contiguous, or with the channels last."""
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return x if last or x.is_contiguous() else x.contiguous()


def _sizes(x: Tensor) -> tuple[int, int, int]:
    """Samples, channels, and places of a sample."""
    return x.shape[0], x.shape[1], x[0, 0].numel()


def _of_channels(value: Tensor, x: Tensor, groups: int) -> Tensor:
    """[channels] or [1], spread over x."""
    return value.reshape(1, -1, *[1] * (x.ndim - 2)) if groups else value


def _products(x: Tensor, gradient: Tensor, groups: int) -> Tensor:
    """The sum over samples and places of x times its gradient, [channels]."""
    if not groups:
        return (x * gradient).flatten(0, -2).sum(0)
    # Dot products of rows: the product itself is never stored.
    samples, channels, places = _sizes(x)
    rows = samples * channels
    dots = torch.bmm(x.reshape(rows, 1, places), gradient.reshape(rows, places, 1))
    return dots.reshape(samples, channels).sum(0)
