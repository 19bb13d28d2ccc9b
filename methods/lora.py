"""Low-rank differences of attention projections, W + B A, in the key layout that hosts load.

One pair of matrices a projection, by ``diffusion_model.<site path>.<projection>`` with
``.lora_A.weight`` [rank, in] and ``.lora_B.weight`` [out, rank]. Site paths are LDM's, so ComfyUI's
LoRA loaders read the keys as they are; without an ``alpha`` key the scale is 1, which is alpha = rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

PROJECTIONS = tuple(f"{attention}.{name}" for attention in ("attn1", "attn2")
                    for name in ("to_q", "to_k", "to_v", "to_out.0"))  # fmt: skip
PREFIX, DOWN, UP = "diffusion_model.", ".lora_A.weight", ".lora_B.weight"


def new_lora(shapes: Mapping[str, tuple[int, int]], rank: int, seed: int) -> dict[str, Tensor]:
    """A LoRA that changes nothing yet: A uniform in +-1 / sqrt(in), B = 0 (Hu et al. 2021).

    Args:
        shapes: (out, in) of each projection by ``<site path>.<projection>``.
        rank: inner dimension, at most the projection's own.
        seed: of A. Drawn in the order of the sorted names, so that every host starts alike.

    Returns:
        float32 on the CPU.
    """
    generator = torch.Generator().manual_seed(seed)
    lora = {}
    for name, (outputs, inputs) in sorted(shapes.items()):
        inner = min(rank, outputs, inputs)
        lora[PREFIX + name + DOWN] = (2 * torch.rand(inner, inputs, generator=generator) - 1) / math.sqrt(inputs)
        lora[PREFIX + name + UP] = torch.zeros(outputs, inner)
    return lora


def factors(lora: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """(A, B) by ``<site path>.<projection>``; A is [rank, inputs], B [outputs, rank].

    Raises:
        ValueError: a key of another layout, or half a pair.
    """
    names = {key.removeprefix(PREFIX).removesuffix(DOWN).removesuffix(UP) for key in lora}
    expected = {PREFIX + name + end for name in names for end in (DOWN, UP)}
    if strange := expected ^ set(lora):
        raise ValueError(f"lora: expected pairs of {PREFIX}<layer>{DOWN} and {UP}, but {min(strange)} does not fit.")
    return {name: (lora[PREFIX + name + DOWN], lora[PREFIX + name + UP]) for name in sorted(names)}


def differences(lora: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """B A of every projection, [outputs, inputs], by ``<site path>.<projection>.weight``."""
    return {f"{name}.weight": up @ down for name, (down, up) in factors(lora).items()}


def same_lora(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> bool:
    """Whether two pairs (A, B) are one, but for a scale and the rounding of a file in half the width.

    A pair with B = 0, which changes nothing, is none.
    """
    return all(
        a.shape == b.shape
        and torch.cosine_similarity(a.float().flatten().cpu(), b.float().flatten().cpu(), dim=0) > 0.9995
        for a, b in zip(first, second, strict=True)
    )


def check_shapes(lora: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, int]]) -> None:
    """Raise ValueError unless the LoRA's layers are among (out, in) ``shapes``."""
    for name, (down, up) in factors(lora).items():
        made_for = (up.shape[0], down.shape[1])
        if shapes.get(name) != made_for:
            raise ValueError(f"lora: was made for {name} of shape {made_for}, but the model has "
                             f"{shapes.get(name, 'none')} there; use the model that it was trained on.")
