"""How VIA's test-time adaptation trains."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..tune_recipe import TuneRecipe
from .augment import PUBLISHED, AffineRanges


@dataclass(frozen=True)
class AdaptRecipe:
    """How to adapt. The paper gives the augmentation only; the rest is this project's choice.

    Args:
        training: steps, learning rate, seed and so on.
        rank: of the LoRA on all attention projections; its alpha is the same.
        batch: pairs a step.
        variants: randomly warped copies of the root pair, encoded once.
        dropout: share of samples without text, without both, and without image, each.
        ranges: of the affine maps.
    """

    training: TuneRecipe = field(default_factory=lambda: TuneRecipe(steps=150, learning_rate=1e-4, queries=False))
    rank: int = 16
    batch: int = 4
    variants: int = 48
    dropout: float = 0.05
    ranges: AffineRanges = PUBLISHED
