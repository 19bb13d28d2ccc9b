"""Matrices of low rank: trained as two factors, and stored as NAME.up and NAME.down in place of NAME."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class LowRank(nn.Module):
    """y = U (V x) + b, begun as the nearest of rank `rank` to a Linear's W x + b (Eckart and Young 1936)."""

    def __init__(self, linear: nn.Linear, rank: int):
        super().__init__()
        left, lengths, right = torch.linalg.svd(linear.weight.detach().float(), full_matrices=False)
        root = lengths[:rank].sqrt()
        self.up, self.down = nn.Parameter(left[:, :rank] * root), nn.Parameter(root[:, None] * right[:rank])
        self.bias = nn.Parameter(linear.bias.detach().clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(F.linear(x, self.down), self.up, self.bias)


def file_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of modules with `LowRank` parts by the file's names: NAME.weight.up and .down for NAME.up and .down."""
    return {f"{stem}.weight.{part}" if part in ("up", "down") else key: value
            for key, value in state.items() for stem, _, part in (key.rpartition("."),)}


def multiply_out(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The way back: NAME.weight = up @ down, rounded to the factors' dtype, in place of both."""
    products = {}
    for key, value in state.items():
        if key.endswith(".down"):
            continue
        if key.endswith(".up"):
            stem = key.removesuffix(".up")
            key, value = stem, (value.float() @ state[f"{stem}.down"].float()).to(value.dtype)
        products[key] = value
    return products
