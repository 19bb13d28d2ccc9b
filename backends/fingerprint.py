"""A name for a U-Net's weights that is the same in every host and file layout."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def of_tensors(tensors: Iterable[Tensor]) -> str:
    """Hash of a set of weights, blind to their names, order, shape and float width.

    Hosts rename keys and store a 1x1 convolution as a matrix, so only the values count:
    each tensor is flattened, rounded to float16 and hashed; the sorted hashes are hashed
    again.

    Returns:
        64 hex digits.
    """
    import torch

    digests = []
    for tensor in tensors:
        values = tensor.detach().to(device="cpu", dtype=torch.float16).contiguous().flatten()
        digests.append(hashlib.sha256(values.view(torch.uint8).numpy()).digest())
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()
