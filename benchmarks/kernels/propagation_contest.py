"""TokenFlow's token propagation beside the two products that nothing can leave out, and beside all pairs of frames."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ...kernels.token_propagation import propagate_tokens, propagate_tokens_reference
from .contests import Contest, Size

#: Frames from one keyframe to the next.
SPACING = 4


def propagation_contest(size: Size, device: torch.device, dtype: torch.dtype) -> Contest:
    """Only sampled with, never trained through. "products" asks for the similarities alone: it is the floor."""
    generator, keyframes = torch.Generator().manual_seed(0), -(-size.frames // SPACING)
    features, key_features, edited = (
        torch.randn(rows, size.tokens, size.heads * size.dim, generator=generator).to(device, dtype)
        for rows in (size.frames, keyframes, keyframes)
    )
    frames = torch.arange(size.frames, device=device)
    past = frames // SPACING
    future = (past + 1).clamp_max(keyframes - 1)
    weight = frames % SPACING / SPACING

    def products(features: Tensor, key_features: Tensor, edited: Tensor) -> Tensor:
        return torch.stack([(features @ key_features[chosen].mT).amax(-1) for chosen in (past, future)])

    def all_pairs(features: Tensor, key_features: Tensor, edited: Tensor) -> Tensor:
        keys, found = normalize(key_features.float(), dim=-1), []
        for frame, near in enumerate(normalize(features.float(), dim=-1)):
            nearest = (near @ keys.mT).argmax(-1)
            earlier, later = (edited[chosen[frame], nearest[chosen[frame]]].float() for chosen in (past, future))
            found.append(torch.lerp(earlier, later, weight[frame]))
        return torch.stack(found).to(edited.dtype)[None]

    return Contest(
        "propagation", 4.0 * size.frames * size.tokens**2 * size.heads * size.dim, (features, key_features, edited),
        {
            "products": products,
            "ours": lambda f, k, e: propagate_tokens(f, k, e[None], past, future, weight),
            "literal": all_pairs,
        },
        (features, key_features, edited),
        lambda f, k, e: propagate_tokens_reference(f, k, e[None], past, future, weight),
        baseline="products", trained=False,
    )  # fmt: skip
