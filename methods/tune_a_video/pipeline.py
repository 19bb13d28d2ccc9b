"""Tune-A-Video from a clip's latents to the edited latents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..one_shot import edit_with
from ..tune_recipe import PUBLISHED, TuneRecipe
from .joint_norms import build_joint_norms
from .sparse_causal import build_sparse_causal
from .temporal import build_temporal_attention

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
    guidance: float = 12.5,
    *,
    seed: int = 0,
    joint_norms: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Attach sparse-causal and temporal attention, tune them on the clip, invert it and sample the edit.

    Args:
        seed: of the temporal attention's initial weights.
        joint_norms: normalise all frames together, as the authors' code.
        options: further keywords of ``methods.one_shot.edit_with``, where the other
            arguments and the result are described.
    """
    sites = backend.sites(model)
    attachments = [build_joint_norms(backend.norms(model))] if joint_norms else []
    attachments += [build_sparse_causal(sites), build_temporal_attention(sites, seed=seed)]
    return edit_with(
        backend, model, attachments, samples, source_cond, target_cond, uncond, recipe,
        steps=steps, guidance=guidance, **options,
    )  # fmt: skip
