"""The adjustable norm beside the plain norm that it takes the place of, and beside its equation in two passes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import group_norm, layer_norm

from ...kernels.adjustable_norm import adjustable_norm, adjustable_norm_reference
from .contests import Contest, Size

#: Stable Diffusion 1.5's outermost stage.
CHANNELS, GROUPS, EPS = 320, 32, 1e-5


def norm_contests(size: Size, device: torch.device, dtype: torch.dtype) -> Iterator[Contest]:
    """GroupNorm on feature maps and LayerNorm on tokens; baseline is the norm without gamma0."""
    yield _contest("group-norm", (size.frames, CHANNELS, size.side, size.side), GROUPS, device, dtype)
    yield _contest("layer-norm", (size.frames, size.tokens, CHANNELS), 0, device, dtype)


def _contest(name: str, shape: tuple[int, ...], groups: int, device: torch.device, dtype: torch.dtype) -> Contest:
    generator = torch.Generator().manual_seed(0)
    inputs = tuple(torch.randn(*s, generator=generator).to(device, dtype).requires_grad_()
                   for s in (shape, (CHANNELS,), (CHANNELS,), (CHANNELS,)))  # fmt: skip

    def plain(z: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return group_norm(z, groups, weight, bias, EPS) if groups else layer_norm(z, z.shape[-1:], weight, bias, EPS)

    def two_passes(z: Tensor, weight: Tensor, bias: Tensor, gamma0: Tensor) -> Tensor:
        return plain(z, weight, bias) + (gamma0[:, None, None] if groups else gamma0) * z

    return Contest(
        name, 10.0 * inputs[0].numel(), inputs,
        {"norm": plain, "ours": partial(adjustable_norm, groups=groups, eps=EPS), "literal": two_passes},
        inputs[:3], partial(adjustable_norm_reference, groups=groups, eps=EPS), baseline="norm",
    )  # fmt: skip
