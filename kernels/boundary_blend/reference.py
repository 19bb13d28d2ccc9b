"""The blend of VIA's equation 6, term by term."""

from __future__ import annotations

import torch
from torch import Tensor


def boundary_blend_reference(generated: Tensor, source: Tensor, weight: Tensor) -> Tensor:
    """weight z_src + (1 - weight) z_gen in float32 (float64 for float64); see ``boundary_blend``.

    Args:
        generated, source: [rows, channels, height, width].
        weight: of the source, [rows or 1, 1, height, width].
    """
    wide = torch.float64 if generated.dtype == torch.float64 else torch.float32
    weight = weight.to(wide)
    return (weight * source.to(wide) + (1 - weight) * generated.to(wide)).to(generated.dtype)
