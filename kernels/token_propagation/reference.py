"""Token propagation as the paper writes it: all distances of a frame's tokens to a keyframe's, then the nearest."""

from __future__ import annotations

import torch
from torch import Tensor


def propagate_tokens_reference(
    features: Tensor, key_features: Tensor, tokens: Tensor, past: Tensor, future: Tensor, weight: Tensor
) -> Tensor:
    """TokenFlow, equations 4 and 5; see ``propagate_tokens``."""
    wide = torch.float64 if tokens.dtype == torch.float64 else torch.float32
    out = torch.empty(len(tokens), *features.shape[:2], tokens.shape[-1], dtype=tokens.dtype, device=tokens.device)
    for i in range(len(features)):
        found = []
        for keyframe in (int(past[i]), int(future[i])):
            near, keys = features[i, :, None].to(wide), key_features[keyframe, None].to(wide)
            similarity = torch.cosine_similarity(near, keys, dim=-1)
            found.append(tokens[:, keyframe, similarity.argmax(1)].to(wide))
        out[:, i] = (weight[i].to(wide) * found[1] + (1 - weight[i].to(wide)) * found[0]).to(tokens.dtype)
    return out
