"""Token propagation by one product for each keyframe: no [frames, tokens, tokens, channels] is ever made."""

from __future__ import annotations

import torch
from torch import Tensor

#: Similarities held at a time: more would use no device better.
MOST = 1 << 26


def propagate_tokens_matched(
    features: Tensor, key_features: Tensor, tokens: Tensor, past: Tensor, future: Tensor, weight: Tensor
) -> Tensor:
    """TokenFlow, equations 4 and 5; see ``propagate_tokens``."""
    wide = torch.float64 if tokens.dtype == torch.float64 else torch.float32
    near, keys = unit(features.to(wide)), unit(key_features.to(wide))
    earlier = matched(near, keys, tokens, past, wide)
    if torch.equal(past, future):
        return earlier.to(tokens.dtype)
    share = weight.to(tokens.device, wide).reshape(1, -1, 1, 1)
    return torch.lerp(earlier, matched(near, keys, tokens, future, wide), share).to(tokens.dtype)


def unit(x: Tensor) -> Tensor:
    """Rows of length 1."""
    return x / x.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)


def matched(near: Tensor, keys: Tensor, tokens: Tensor, chosen: Tensor, wide: torch.dtype) -> Tensor:
    """Of each frame's token the nearest one's in its keyframe, [branches, frames, tokens, d]."""
    frames, places, _ = near.shape
    out = torch.empty(len(tokens), frames, places, tokens.shape[-1], dtype=wide, device=tokens.device)
    step = max(1, MOST // places**2)
    for keyframe in chosen.unique().tolist():
        for rows in (chosen == keyframe).nonzero()[:, 0].split(step):
            out[:, rows] = tokens[:, keyframe][:, nearest(near[rows], keys[keyframe])].to(wide)
    return out


def nearest(near: Tensor, keys: Tensor) -> Tensor:
    """Of each token [frames, tokens, channels] the number of the most similar one in a keyframe: [frames, tokens]."""
    return (near @ keys.T).argmax(-1)
