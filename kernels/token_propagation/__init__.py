"""Tokens of keyframes carried to other frames along nearest neighbours in the source's features (TokenFlow)."""

from __future__ import annotations

from torch import Tensor

from .matched import propagate_tokens_matched
from .reference import propagate_tokens_reference

__all__ = ["propagate_tokens", "propagate_tokens_matched", "propagate_tokens_reference"]


def propagate_tokens(
    features: Tensor, key_features: Tensor, tokens: Tensor, past: Tensor, future: Tensor, weight: Tensor
) -> Tensor:
    """Blend every token of a frame from its nearest neighbours in two keyframes (TokenFlow, equations 4 and 5).

        gamma_(i+-)[p] = argmin_q D(phi(x_i)[p], phi(x_(i+-))[q]),   D the cosine distance
        out_i[p] = w_i T_(i+)[gamma_(i+)[p]] + (1 - w_i) T_(i-)[gamma_(i-)[p]]

    Of equally near tokens the first is taken. Where both keyframes of a frame are one, it is looked up once.

    Args:
        features: phi of the source's frames, [frames, tokens, channels] of any float type.
        key_features: phi of the source's keyframes, [keyframes, tokens, channels].
        tokens: T, of the edited keyframes, [branches, keyframes, tokens, d].
        past, future: the keyframe before and after each frame, [frames], int64.
        weight: w, of the later keyframe, [frames] in 0 .. 1.

    Returns:
        [branches, frames, tokens, d] in the type of ``tokens``; distances and sums run in float32 (float64 for
        float64).

    Raises:
        ValueError: shapes do not fit.
    """
    frames, places, channels = features.shape
    keyframes = len(key_features)
    if key_features.shape[1:] != (places, channels) or tokens.shape[1:3] != (keyframes, places):
        raise ValueError(f"token propagation: features {tuple(features.shape)}, those of keyframes "
                         f"{tuple(key_features.shape)} and tokens {tuple(tokens.shape)} do not fit each other.")
    if not past.shape == future.shape == weight.shape == (frames,):
        raise ValueError(f"token propagation: keyframes {tuple(past.shape)}, {tuple(future.shape)} and weights "
                         f"{tuple(weight.shape)} are not one for each of {frames} frames.")
    return propagate_tokens_matched(features, key_features, tokens, past, future, weight)
