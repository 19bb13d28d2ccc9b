"""DAPE's stages as tests train them: one after the other, or both at once."""

from __future__ import annotations

from steadyedit.methods.dape.pipeline import run_stage
from steadyedit.methods.dape.recipes import ADAPTER_TUNING, JOINT_TUNING, NORM_TUNING, Stage


def run_stages(backend, model, samples, conditioning, stages, preview_every=0):
    """What every stage gave, each on what the one before it gave; the last one's MODEL has all of them."""
    results = []
    for stage in stages:
        results.append(run_stage(backend, model, samples, conditioning, stage, preview_every=preview_every))
        model = results[-1].model
    return results


def norm_stage(recipe=NORM_TUNING, **config):
    """Stage 1; ``config`` of ``build_norm_tune``."""
    return Stage({"norm-tune": config}, recipe)


def adapter_stage(recipe=ADAPTER_TUNING, **config):
    """Stage 2; ``config`` of ``build_visual_adapter``."""
    return Stage({"visual-adapter": config}, recipe)


def joint_stage(recipe=JOINT_TUNING, norms=None, **config):
    """Both at once; ``norms`` of ``build_norm_tune``, ``config`` of the adapter."""
    return Stage({"norm-tune": norms or {}, "visual-adapter": config}, recipe)
