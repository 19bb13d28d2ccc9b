"""Edges of the stills, the ControlNet's hints: kept as packed bits under the ignored .cache folder."""

from __future__ import annotations

import numpy as np
import torch

from ..models.control import edges
from .data import CACHE, CHUNK, chunk_paths


def edges_chunk(number: int) -> np.ndarray:
    """Edges of stills CHUNK number ... as packed bits, uint8 [CHUNK,128,16]; cached on disk."""
    path = CACHE / f"edges_{number:03d}.npy"
    if not path.exists():
        pictures = np.load(chunk_paths(number, "train", 128)[0], mmap_mode="r")
        found = [edges(torch.from_numpy(pictures[i:i + 50].copy()).float() / 255)[..., 0].numpy() > 0
                 for i in range(0, CHUNK, 50)]
        np.save(path, np.packbits(np.concatenate(found), axis=-1))
    return np.load(path)


def hints_of(packed: np.ndarray) -> torch.Tensor:
    """Packed bits [B,H,W/8] -> hints [B,3,H,W] of zeros and ones."""
    return torch.from_numpy(np.unpackbits(packed, axis=-1)).float()[:, None].expand(-1, 3, -1, -1).contiguous()
