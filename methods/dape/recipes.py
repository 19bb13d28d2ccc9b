"""DAPE's stages as published: what each trains, for how long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..tune_recipe import TuneRecipe

#: Stage 1 (section 5.1): batch 1, Huber loss with delta 1. The optimizer is unstated; here AdamW as for the
#: other one-shot methods.
NORM_TUNING = TuneRecipe(steps=400, learning_rate=5e-5, queries=False, loss="huber", delta=1.0)
#: Stage 2 (section 5.1).
ADAPTER_TUNING = replace(NORM_TUNING, steps=70, learning_rate=1e-5)
#: Table 3's "One-stage" without numbers in the paper: as many steps as both stages have, at the rate of the first.
JOINT_TUNING = replace(NORM_TUNING, steps=NORM_TUNING.steps + ADAPTER_TUNING.steps)


@dataclass(frozen=True)
class Stage:
    """One training: methods that are attached anew and trained together, while all others stay frozen.

    Args:
        methods: settings by slug of ``methods.registry``.
        recipe: how to train.
    """

    methods: Mapping[str, Mapping[str, Any]]
    recipe: TuneRecipe = field(default_factory=TuneRecipe)
