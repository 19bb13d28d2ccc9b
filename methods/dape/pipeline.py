"""A stage of DAPE on a MODEL that is ready for its clip."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..registry import build_on
from ..tuned_weights import check_untuned
from ..tuning import Tuned, tune
from .recipes import Stage

if TYPE_CHECKING:
    from ...backends.protocol import Progress, Tuning


def run_stage(
    backend: Tuning, model: Any, samples: Tensor, conditioning: Any, stage: Stage, *, cache: Path | None = None,
    progress: Progress | None = None, preview_every: float = 2.0,
) -> Tuned:  # fmt: skip
    """Attach a stage's methods to the MODEL and train them alone on one clip.

    Args:
        model: MODEL with whatever base it has (EI2's modules, Tune-A-Video's, a LoRA, an
            earlier stage). All that stays frozen, and at work.
        samples, conditioning: the clip's LATENT samples and the CONDITIONING that describes it.
        stage: see ``recipes``.
        cache, progress, preview_every: see ``tuning.tune``.

    Returns:
        The MODEL with the stage's methods tuned on it, and weights that hold these alone.

    Raises:
        ValueError: a setting that does not fit the MODEL, a method that is tuned on it already, and what
            ``tune`` raises.
    """
    for method, config in stage.methods.items():
        check_untuned(backend, model, method)
        model = backend.attach(model, build_on(backend, model, method, config))
    return tune(backend, model, samples, conditioning, stage.recipe, cache=cache, progress=progress,
                preview_every=preview_every, only=tuple(stage.methods))  # fmt: skip
