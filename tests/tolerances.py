"""One table of tolerances, by what stands between two numbers that should be equal; and the comparison by type."""

from __future__ import annotations

import torch
from torch import Tensor

#: the same sums in float64, in another order
FLOAT64 = 1e-12
#: many steps in float64: a run of a sampler, a network
FLOAT64_CHAIN = 1e-9
#: one rounding to float32
FLOAT32_NEAREST = 1e-7
#: a few operations in float32
FLOAT32_STEP = 1e-6
#: a layer in float32: sums over some hundred terms
FLOAT32 = 1e-5
#: a whole network in float32, its loss or its gradients
NETWORK = 1e-4
#: many calls of a network (sampling, training, a codec of latents), or another implementation of it
RUN = 1e-3
#: pictures in 8 bits
EIGHT_BITS = 1e-2
#: pictures that went through a video file
CODEC = 2e-2

# Largest error, relative to the largest expected magnitude (or 1): a few rounding errors of the
# type for sums over some hundred terms. Kernels compute in float32 and round the result once.
TOLERANCES = {
    torch.float64: FLOAT64,
    torch.float32: FLOAT32,
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


# A few steps of a sampler, or losses of a few steps of training, with a network stored in fewer bits: relative to the
# same in float32.
HALF_RUN = {torch.float16: 5e-3, torch.bfloat16: 4e-2}
