"""EI2 from a clip's latents to the edited latents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..one_shot import edit_with
from ..tune_recipe import PUBLISHED, TuneRecipe
from .ffam import build_ffam
from .stam import build_stam

if TYPE_CHECKING:
    from ...backends.protocol import Editing


def edit_clip(
    backend: Editing,
    model: Any,
    samples: Tensor,
    source_cond: Any,
    target_cond: Any,
    uncond: Any,
    recipe: TuneRecipe = PUBLISHED,
    steps: int = 50,
    guidance: float = 7.5,
    *,
    ratio: int = 2,
    blocks: str = "all",
    seed: int = 0,
    **options: Any,
) -> dict[str, Any]:
    """Attach STAM and FFAM, tune them on the clip, invert it and sample the edit.

    Args:
        ratio, blocks: of FFAM.
        seed: of STAM's initial weights.
        options: further keywords of ``methods.one_shot.edit_with``, where the other
            arguments and the result are described.
    """
    sites = backend.sites(model)
    attachments = [build_stam(sites, seed=seed), build_ffam(sites, ratio=ratio, blocks=blocks)]
    return edit_with(
        backend, model, attachments, samples, source_cond, target_cond, uncond, recipe,
        steps=steps, guidance=guidance, **options,
    )  # fmt: skip
