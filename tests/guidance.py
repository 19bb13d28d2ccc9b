"""InstructPix2Pix's guidance on the diffusers backend, by the names of the host's DualCFGGuider."""

from __future__ import annotations

from steadyedit.backends.diffusers import Denoiser


def dual_guidance(model, cond1, cond2, negative, cfg_conds, cfg_cond2_negative, **options):
    """D = D_neg + cfg_cond2_negative (D_2 - D_neg) + cfg_conds (D_1 - D_2).

    cond1: text and image; cond2: image, empty text; negative: empty text, no image.
    """
    return Denoiser(model, cond1, negative, cfg_conds, middle=cond2, middle_cfg=cfg_cond2_negative, **options)
