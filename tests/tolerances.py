"""One table of tolerances by type, and the comparison that uses it."""

from __future__ import annotations

import torch
from torch import Tensor

# Largest error, relative to the largest expected magnitude (or 1): a few rounding errors of the
# type for sums over some hundred terms. Kernels compute in float32 and round the result once.
TOLERANCES = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 4e-3,
    torch.bfloat16: 3e-2,
}


def assert_close(actual: Tensor, expected: Tensor, dtype: torch.dtype | None = None, name: str = "result") -> None:
    """Compare with a float64 expectation; NaN never passes.

    Args:
        dtype: the type in which ``actual`` was computed; its own if None.
    """
    assert actual.shape == expected.shape, f"{name}: {tuple(actual.shape)} instead of {tuple(expected.shape)}"
    expected = expected.double()
    scale = max(1.0, expected.abs().max().item())
    error = (actual.double() - expected).abs().max().item() / scale
    limit = TOLERANCES[dtype or actual.dtype]
    assert error <= limit, f"{name}: error {error:.2e} exceeds {limit:.0e}"
