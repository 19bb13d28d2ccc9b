"""A node's value as a flat table of tensors in a file."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch


def tensors_of(value: Any, name: str = "") -> dict[str, torch.Tensor]:
    """Every tensor inside of lists, tuples, mappings and dataclasses, by its place, such as ``0.1.concat_mask``."""
    if isinstance(value, torch.Tensor):
        return {name or "value": value.detach().float().cpu().contiguous().clone()}
    if isinstance(value, (int, float)):
        return {name or "value": torch.tensor(float(value))}
    if isinstance(value, dict):
        parts = {str(key): part for key, part in value.items()}
    elif isinstance(value, (list, tuple)):
        parts = {str(number): part for number, part in enumerate(value)}
    elif is_dataclass(value):
        parts = {one.name: getattr(value, one.name) for one in fields(value)}
    else:
        # Values of the host's own classes, such as what CLIP vision gives.
        parts = {key: part for key, part in getattr(value, "__dict__", {}).items()
                 if isinstance(part, (torch.Tensor, list, tuple, dict))}
    found: dict[str, torch.Tensor] = {}
    for key, part in parts.items():
        found.update(tensors_of(part, f"{name}.{key}" if name else key))
    return found


def keep(value: Any, path: str) -> None:
    """Write the tensors of a value."""
    from safetensors.torch import save_file

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors_of(value) or {"nothing": torch.zeros(0)}, path)
