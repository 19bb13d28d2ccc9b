"""Instruction editing with the flow-matching editor alone (Euler), for the judge of `instructions`."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ... import models
from ...models import flow_editor
from ..recipes.unet import SCALE
from .instructions import edit_stills, judge


@torch.no_grad()
def follow(images: torch.Tensor, instructions: Sequence[str], steps: int = 20, text: float = 1.0, seed: int = 0,
           parts: tuple | None = None, batch: int = 20) -> torch.Tensor:
    """Pictures edited as told.

    Euler steps of dz/ds = v over s = 2 u / (1 + u), u even from 1 to 0; v = v(0) + text (v(instruction) - v(0)), one
    evaluation where text is 1.

    Args:
        images: [B,H,W,3] in 0..1. parts: (vae, editor, text_encoder); None = the trained ones.
    Returns: [B,H,W,3] in 0..1.
    """
    vae, editor, encoder = parts or (models.load_vae(), models.load("flow_editor"), models.load_editor_text_encoder())
    u = torch.linspace(1, 0, steps + 1)
    sigmas = (flow_editor.SHIFT * u / (1 + (flow_editor.SHIFT - 1) * u)).tolist()
    pictures = []
    for start in range(0, len(images), batch):
        shown, texts = images[start:start + batch], list(instructions[start:start + batch])
        pieces = (shown.permute(0, 3, 1, 2) * 2 - 1).split(8)
        source = torch.cat([vae.encode(few).latent_dist.mean for few in pieces]) * SCALE
        context, pooled = flow_editor.embed_text(encoder, models.tokenize(texts + [""] * len(texts) * (text != 1)))
        branches = len(context) // len(texts)
        z = torch.randn(source.shape, generator=torch.Generator().manual_seed(seed + start))
        for now, then in zip(sigmas, sigmas[1:]):
            level = torch.full((len(context),), now)
            v, *silent = flow_editor.velocity(
                editor, z.repeat(branches, 1, 1, 1), source.repeat(branches, 1, 1, 1), level, context, pooled,
            ).chunk(branches)
            if silent:
                v = silent[0] + text * (v - silent[0])
            z = z + (then - now) * v
        pictures += [vae.decode(few / SCALE, return_dict=False)[0] for few in z.split(8)]
    return (torch.cat(pictures) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)


def judge_flow_edits(count: int = 200, steps: int = 20, texts: Sequence[float] = (1.0, 2.0, 2.5)) -> dict:
    """Edit `count` held-out stills with the trained editor and have the judge look: at the first guidance over the
    text, and under its number at each of the others."""
    stills = edit_stills(count)
    instructions = [edit.instruction for _, edit in stills.pairs]
    first, *others = (judge(stills, follow(stills.source, instructions, steps, text)) for text in texts)
    return {"stills": count, "sampling_steps": steps, "text_guidance": texts[0], **first,
            **{f"text_guidance_{text:g}": found for text, found in zip(texts[1:], others)}}
