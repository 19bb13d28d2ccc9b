"""Safetensors files that carry a JSON value and a digest: whole or not at all when written, checked when read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor

from ..files.writing import write_bytes
from .content_hash import content_hash

DIGEST = "steadyedit_digest"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], key: str, value: Any) -> None:
    """Write tensors, ``value`` as JSON under ``key`` of the file's metadata, and the digest of both.

    Raises:
        OSError: one sentence with the reason; no partial file is left.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(value, sort_keys=True)
    write_bytes(Path(path), to_safetensors(plain, {key: text, DIGEST: content_hash(plain, text)}))


def read_tensors(path: Path, key: str, digest: bool = False) -> tuple[dict[str, Tensor], Any]:
    """What ``write_tensors`` wrote.

    Args:
        digest: refuse a file without one. Files of version 0.1.0 have none.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no whole safetensors file, has nothing under ``key``, or holds other values than were written.
    """
    data = Path(path).read_bytes()
    try:
        tensors = parse_safetensors(data)
        # The format: eight bytes of length, then a JSON header that carries the metadata.
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        value, recorded = json.loads(metadata[key]), metadata.get(DIGEST)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"{Path(path).name}: not a whole file of the expected kind.") from error
    if recorded is None and digest:
        raise ValueError(f"{Path(path).name}: has no digest by which its values could be checked.")
    if recorded is not None and recorded != content_hash(tensors, metadata[key]):
        raise ValueError(f"{Path(path).name}: is damaged, for its values are not those that were written.")
    return tensors, value
