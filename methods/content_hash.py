"""One hash for everything that decides the outcome of a tuning."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def content_hash(*values: Any) -> str | None:
    """SHA-256 over the content of nested lists, mappings, tensors and plain values.

    Returns:
        64 hex digits; None if something has no readable content (a ControlNet inside a
        conditioning, say), so that equality can not be told.
    """
    digest = hashlib.sha256()
    try:
        _feed(digest, values)
    except TypeError:
        return None
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        value = value.detach().cpu().contiguous()
        digest.update(f"tensor {value.dtype} {tuple(value.shape)};".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, Mapping):
        digest.update(f"mapping {len(value)};".encode())
        for key in sorted(value, key=str):
            _feed(digest, key)
            _feed(digest, value[key])
    elif isinstance(value, (list, tuple)):
        digest.update(f"list {len(value)};".encode())
        for item in value:
            _feed(digest, item)
    elif value is None or isinstance(value, (bool, int, float, str)):
        digest.update(f"{type(value).__name__} {json.dumps(value)};".encode())
    else:
        raise TypeError(f"no content to hash in a {type(value).__name__}")
