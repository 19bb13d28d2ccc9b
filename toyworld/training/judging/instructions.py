"""Instruction editing with the toy editor alone (DDIM), and the judging of what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from ... import models
from ...models.classifier import boxes_of
from ...models.judge import classify
from ...world.edits import KINDS, LOCAL, Edit, apply_edit, edits_of, is_clear
from ...world.rendering import render_frame
from ...world.scene import Scene, sample_scene
from ..recipes.unet import SCALE, alphas_cumprod

TEXT, IMAGE = models.EDITOR_TEXT_GUIDANCE, models.EDITOR_IMAGE_GUIDANCE


@torch.no_grad()
def follow(images: torch.Tensor, instructions: Sequence[str], steps: int = 20, text: float = TEXT,
           image: float = IMAGE, seed: int = 0, parts: tuple | None = None, batch: int = 20) -> torch.Tensor:
    """Pictures edited as told.

    DDIM (eta 0), timesteps evenly spaced from 999 down, with InstructPix2Pix's two guidances
    e = e(0, 0) + image (e(y, 0) - e(0, 0)) + text (e(y, c) - e(y, 0)),  y the source's raw latent, c the instruction.

    Args:
        images: [B,H,W,3] in 0..1. parts: (vae, editor, text_encoder); None = the trained ones.
    Returns: [B,H,W,3] in 0..1.
    """
    vae, editor, encoder = parts or (models.load_vae(), models.load_editor(), models.load_editor_text_encoder())
    abar = torch.cat([alphas_cumprod(), torch.ones(1)])  # index -1: clean
    times = torch.linspace(999, 0, steps + 1).round().long()[:-1].tolist() + [-1]
    pictures = []
    for start in range(0, len(images), batch):
        shown, texts = images[start:start + batch], list(instructions[start:start + batch])
        count = len(texts)
        y = torch.cat([vae.encode(few).latent_dist.mean for few in (shown.permute(0, 3, 1, 2) * 2 - 1).split(8)])
        with_text, without_text = encoder(models.tokenize([*texts, ""])).last_hidden_state.split([count, 1])
        without_text = without_text.expand(count, -1, -1)
        # (text, image): told and shown, only shown, neither; the last has no say where image is 1
        branches = [(with_text, y), (without_text, y), (without_text, torch.zeros_like(y))][:2 if image == 1 else 3]
        context, condition = (torch.cat(column) for column in zip(*branches))
        z = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed + start))
        for now, then in zip(times, times[1:]):
            noisy = torch.cat([z.repeat(len(branches), 1, 1, 1), condition], 1)
            both, only, *rest = editor(noisy, now, context).sample.chunk(len(branches))
            noise = only + text * (both - only)
            if rest:
                noise = noise + (image - 1) * (only - rest[0])
            clean = (z - (1 - abar[now]).sqrt() * noise) / abar[now].sqrt()
            z = abar[then].sqrt() * clean + (1 - abar[then]).sqrt() * noise
        pictures += [vae.decode(few / SCALE, return_dict=False)[0] for few in z.split(8)]
    return (torch.cat(pictures) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)


def psnr_where(a: torch.Tensor, b: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """PSNR [B] of pictures [B,H,W,3] in 0..1 over the pixels of bool masks [B,H,W]."""
    error = ((a - b) ** 2).mean(-1) * where
    return -10 * torch.log10(error.sum((1, 2)) / where.sum((1, 2)) + 1e-10)


@dataclass(frozen=True)
class Stills:
    """Held-out stills with an edit each: scene and edit, pictures [B,H,W,3], main objects' visible masks [B,H,W]."""

    pairs: list[tuple[Scene, Edit]]
    source: torch.Tensor
    answer: torch.Tensor
    source_mask: torch.Tensor
    answer_mask: torch.Tensor


def edit_stills(count: int, offset: int = 300_000) -> Stills:
    """Unstyled stills of the test split with an edit each: kinds in turn, targets drawn by the still's number."""
    pairs: list[tuple[Scene, Edit]] = []
    while len(pairs) < count:
        scene = sample_scene(offset, "test", frames=32, style="none")
        options = [e for e in edits_of(scene) if e.kind == KINDS[len(pairs) % len(KINDS)]] if is_clear(scene) else []
        if options:
            pairs.append((scene, options[int(np.random.default_rng(offset).integers(len(options)))]))
        offset += 1
    before = [render_frame(scene, i * 7 % 32) for i, (scene, _) in enumerate(pairs)]
    after = [render_frame(apply_edit(scene, edit), i * 7 % 32) for i, (scene, edit) in enumerate(pairs)]
    pictures = [torch.from_numpy(np.stack([row[0] for row in rows])) for rows in (before, after)]
    masks = [torch.from_numpy(np.stack([row[1][0] for row in rows])) for rows in (before, after)]
    return Stills(pairs, *pictures, *masks)


def right_edits(stills: Stills, pictures: torch.Tensor) -> tuple[dict[str, list[bool]], list[bool]]:
    """By kind, whether the judge names the edit's target in each of `pictures` [B,H,W,3] (in a box around the object
    for colour, shape and texture, in the whole frame for background and style); and for those in a box, whether it
    names the object's other two attributes as before."""
    boxed, whole = classify(pictures, boxes_of(stills.answer_mask)), classify(pictures)
    right: dict[str, list[bool]] = {kind: [] for kind in KINDS}
    kept: list[bool] = []
    for i, (scene, edit) in enumerate(stills.pairs):
        right[edit.kind].append((boxed if edit.kind in LOCAL else whole)[edit.kind][i] == edit.target)
        if edit.kind in LOCAL:
            kept.append(all(boxed[k][i] == getattr(scene.main, k) for k in LOCAL if k != edit.kind))
    return right, kept


@torch.no_grad()
def judge(stills: Stills, result: torch.Tensor, vae=None) -> dict:
    """What the judge sees in edited stills [B,H,W,3], and what they did to the rest.

    `right`, `kept`: see `right_edits`; `right_truth`: of the true answers, seen through the autoencoder, which is as
    well as this judge can find any. `psnr_outside`: against the source, of local edits, where neither the object nor
    its answer is within 8 pixels; `lost_outside`: by how much the autoencoder's own reconstruction is nearer. Means
    over the stills, dB.
    """
    vae = vae or models.load_vae()

    def again(pictures: torch.Tensor) -> torch.Tensor:
        few = (pictures.permute(0, 3, 1, 2) * 2 - 1).split(8)
        decoded = torch.cat([vae.decode(vae.encode(x).latent_dist.mean).sample for x in few])
        return (decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)

    def share(values: list[bool]) -> float:
        return round(sum(values) / max(len(values), 1), 4)

    (right, kept), (truth, _) = (right_edits(stills, pictures) for pictures in (result, again(stills.answer)))
    local = torch.tensor([edit.kind in LOCAL for _, edit in stills.pairs])
    source, masks = stills.source[local], torch.maximum(stills.source_mask, stills.answer_mask)[local]
    outside = F.max_pool2d(masks[:, None], 17, 1, 8)[:, 0] < 0.05
    own, got = (psnr_where(pictures, source, outside) for pictures in (again(source), result[local]))
    return {
        "right": share(sum(right.values(), [])), **{f"right_{kind}": share(values) for kind, values in right.items()},
        "right_truth": share(sum(truth.values(), [])), "kept": share(kept),
        "psnr_outside": round(got.mean().item(), 2), "psnr_outside_autoencoder": round(own.mean().item(), 2),
        "lost_outside": round((own - got).mean().item(), 2),
    }


def judge_edits(count: int = 200, steps: int = 20, texts: Sequence[float] = (TEXT, 2.0, 3.0),
                image: float = IMAGE) -> dict:
    """Edit `count` held-out stills with the trained editor and have the judge look: at the first guidance over the
    text, and under its number at each of the others."""
    stills = edit_stills(count)
    instructions = [edit.instruction for _, edit in stills.pairs]
    first, *others = (judge(stills, follow(stills.source, instructions, steps, text, image)) for text in texts)
    return {"stills": count, "sampling_steps": steps, "text_guidance": texts[0], "image_guidance": image, **first,
            **{f"text_guidance_{text:g}": found for text, found in zip(texts[1:], others)}}
