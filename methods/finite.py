"""Values that are not finite are found, and refused in one sentence, where they come in."""

from __future__ import annotations

import torch
from torch import Tensor


def finite(tensor: Tensor) -> bool:
    """Whether every value is finite; without the memory of a second clip.

    The smallest and the largest value of each frame are asked, which carry a NaN on: ``torch.isfinite`` makes an
    answer, and an absolute value, for every number of the tensor.
    """
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    frames = tensor if tensor.ndim > 2 else [tensor]
    # Eight bits have no smallest and largest.
    return all(bool(torch.isfinite(torch.stack(torch.aminmax(frame.float() if frame.element_size() == 1 else frame))
                                   ).all()) for frame in frames)  # fmt: skip


def check_finite(name: str, tensor: Tensor) -> None:
    """Raise ValueError, in the name of the input that holds it, where a value is NaN or infinite."""
    if not finite(tensor):
        raise ValueError(f"{name}: it holds NaN or infinite values; check what made it.")
