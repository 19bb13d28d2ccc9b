"""Safetensors files that carry a JSON value: whole or not at all when written, checked when read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor

from .atomic import write_atomically


def write_tensors(path: Path, tensors: Mapping[str, Tensor], key: str, value: Any) -> None:
    """Write tensors, and ``value`` as JSON under ``key`` of the file's metadata.

    Raises:
        OSError: one sentence with the reason; no partial file is left.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(Path(path), to_safetensors(plain, {key: json.dumps(value, sort_keys=True)}))


def read_tensors(path: Path, key: str) -> tuple[dict[str, Tensor], Any]:
    """What ``write_tensors`` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no whole safetensors file, or has nothing under ``key``.
    """
    data = Path(path).read_bytes()
    try:
        tensors = parse_safetensors(data)
        # The format: eight bytes of length, then a JSON header that carries the metadata.
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return tensors, json.loads(header["__metadata__"][key])
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"{Path(path).name}: not a whole file of the expected kind.") from error
