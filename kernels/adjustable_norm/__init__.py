"""Normalisation with a share of the input beside it (DAPE, equation 2)."""

from __future__ import annotations

from torch import Tensor

from .native import adjustable_norm_native
from .reference import adjustable_norm_reference

__all__ = ["adjustable_norm", "adjustable_norm_native", "adjustable_norm_reference"]


def adjustable_norm(
    z: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    gamma0: Tensor | None,
    groups: int = 0,
    eps: float = 1e-5,
) -> Tensor:
    """z' = gamma Norm(z) + beta + gamma0 z (DAPE, equation 2), one pass over z after its statistics.

    Where gamma0 is 0 it is bit for bit ``torch.nn.functional.group_norm`` or ``layer_norm`` of float32 input.

    Args:
        z: [batch, channels, ...] for a GroupNorm, [..., channels] for a LayerNorm, any float type.
        weight: gamma, [channels]; None is 1.
        bias: beta, [channels]; None is 0.
        gamma0: [channels], or [1] for one number for all of them; None is 0.
        groups: of the GroupNorm; 0 for a LayerNorm over the last dimension.
        eps: added to the variance.

    Returns:
        The shape and type of ``z``; all sums run in float32 (float64 for float64).

    Raises:
        ValueError: shapes do not fit.
    """
    if z.ndim < 2 or z.numel() == 0:
        raise ValueError(f"adjustable norm: {tuple(z.shape)} is not [batch, channels, ...] or [..., channels].")
    channels = z.shape[1] if groups else z.shape[-1]
    if groups < 0 or (groups and channels % groups):
        raise ValueError(f"adjustable norm: {channels} channels do not split into {groups} groups.")
    for name, value, sizes in (("weight", weight, (channels,)), ("bias", bias, (channels,)),
                               ("gamma0", gamma0, (channels, 1))):  # fmt: skip
        if value is not None and (value.ndim != 1 or value.shape[0] not in sizes):
            raise ValueError(f"adjustable norm: {name} {tuple(value.shape)} does not fit {channels} channels.")
    return adjustable_norm_native(z, weight, bias, gamma0, groups, eps)
