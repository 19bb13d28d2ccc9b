"""What all methods of a benchmark have in common, and what each makes of a case."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...methods.tune_recipe import TuneRecipe

if TYPE_CHECKING:
    from torch import Tensor

GRAPH = Path(__file__).parents[2] / "workflows" / "api" / "toy_ei2.json"

# Of the table; see ``Settings.of_the_table``.
TUNING_STEPS, STEPS, GUIDANCE = 30, 12, 4.0


def scaled(published: TuneRecipe, scale: float, **change: Any) -> TuneRecipe:
    """A published recipe with its steps times ``scale`` and its learning rate divided by it.

    Adam's steps are as long as its rate, so that it comes as far.
    """
    steps = max(1, round(published.steps * scale))
    return replace(published, steps=steps, learning_rate=published.learning_rate * published.steps / steps, **change)


@dataclass(frozen=True)
class Settings:
    """What all methods have in common, so that nothing but the method differs.

    Args:
        recipe: of the tuning.
        steps: of inversion and of sampling.
        guidance: of the sampling.
        refinement: fixed-point iterations of each inversion step.
    """

    recipe: TuneRecipe
    steps: int
    guidance: float
    refinement: int = 0

    @classmethod
    def shipped(cls) -> Settings:
        """Those of the toy graph, so that the numbers are of what a user runs."""
        graph = json.loads(GRAPH.read_text(encoding="utf-8"))
        inputs = {node["class_type"]: node["inputs"] for node in graph.values()}
        tuning, inversion = inputs["SteadyEditOneShotTune"], inputs["SteadyEditDDIMInversion"]
        return cls(
            recipe=TuneRecipe(steps=tuning["steps"], learning_rate=tuning["learning_rate"]),
            steps=inversion["steps"],
            guidance=inputs["SamplerCustom"]["cfg"],
            refinement=inversion["refinement"],
        )

    @classmethod
    def of_the_table(cls) -> Settings:
        """The toy graph's with fewer steps, since eight methods are tuned on every clip.

        Chosen on clips of the validation split: at the graph's guidance hardly any new shape
        appears, whatever the method; and longer tuning only costs more.
        """
        shipped = cls.shipped()
        recipe = replace(shipped.recipe, steps=TUNING_STEPS)
        return replace(shipped, recipe=recipe, steps=STEPS, guidance=GUIDANCE)


@dataclass(frozen=True)
class Edited:
    """What a method made of a case.

    Args:
        frames: [F, H, W, 3].
        train_seconds, infer_seconds: tuning; inversion, sampling and decoding.
        peak_mb: memory at the worst moment above where the method began.
        model: the tuned MODEL, and x at every sigma of the inversion with those sigmas
            ascending, for measures inside the model.
    """

    frames: Tensor
    train_seconds: float | None
    infer_seconds: float
    peak_mb: float
    model: Any
    trajectory: list[Tensor]
    sigmas: Tensor
