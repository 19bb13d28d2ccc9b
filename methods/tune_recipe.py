"""How a training goes: steps, AdamW's settings, the loss."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class TuneRecipe:
    """How to tune; the defaults are EI2's and Tune-A-Video's.

    Args:
        steps: optimizer steps.
        learning_rate, betas, weight_decay: of AdamW.
        max_grad_norm: the joint gradient norm is clipped to it.
        seed: of timesteps and noise.
        checkpoint_every: steps between checkpoints on disk.
        queries: also tune the query projections that the attached methods name.
        loss, delta: "mse", or "huber" with its delta; see ``diffusion.training.NoiseTraining``.
    """

    steps: int = 500
    learning_rate: float = 3e-5
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-2
    max_grad_norm: float = 1.0
    seed: int = 0
    checkpoint_every: int = 50
    queries: bool = True
    loss: str = "mse"
    delta: float = 1.0


PUBLISHED = TuneRecipe()


def outcome_settings(recipe: TuneRecipe) -> dict[str, Any]:
    """The part of the recipe that decides the outcome."""
    settings = asdict(recipe)
    del settings["checkpoint_every"]
    return settings
