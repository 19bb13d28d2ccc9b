"""The scorer: a small CLIP on renders, symmetric contrastive loss over a batch (Radford et al. 2021).

    S = scale * normalise(image) normalise(text)^T,   loss = (CE(S, i) + CE(S^T, i)) / 2

Pairs with the same caption are left out of each other's negatives.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F
from tqdm import tqdm

from ... import models
from ...models.classifier import crop_resize
from ..data import held_out, stills
from ..loop import Run, add_bars, publish
from .classifier import soften

SEED = 41


def embed(model, images: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit image and text embeddings [B,64]; images [B,3,64,64] in [-1,1], ids [B,77]."""
    image = model.visual_projection(model.vision_model(pixel_values=images).pooler_output)
    text = model.text_projection(model.text_model(input_ids=ids).pooler_output)
    return F.normalize(image, dim=-1), F.normalize(text, dim=-1)


def loss_of(model, images: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    image, text = embed(model, images, ids)
    scores = model.logit_scale.exp().clamp(max=100) * image @ text.T
    same = (ids[:, None] == ids[None]).all(-1) & ~torch.eye(len(ids), dtype=torch.bool)
    scores = scores.masked_fill(same, -1e4)
    target = torch.arange(len(ids))
    return (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2


@torch.no_grad()
def measure(model, count: int = 500, ways: int = 50) -> dict:
    """Held-out retrieval: the right caption among `ways` different ones, and the right picture for a caption."""
    frames, scenes, _ = held_out(count, offset=60_000)
    ids = models.tokenize([s.caption for s in scenes])
    image, text = embed(model, crop_resize(frames), ids)
    to_text, to_image = [], []
    for start in range(0, count, ways):
        scores = image[start:start + ways] @ text[start:start + ways].T
        target = torch.arange(len(scores))
        to_text.append((scores.argmax(1) == target).float())
        to_image.append((scores.argmax(0) == target).float())
    return {f"caption_of_{ways}": round(torch.cat(to_text).mean().item(), 4),
            f"picture_of_{ways}": round(torch.cat(to_image).mean().item(), 4)}


def train(steps: int = 1200, batch: int = 64, peak: float = 3e-3, count: int = 26000) -> None:
    """Train and publish."""
    torch.manual_seed(SEED)
    model = models.build_clip().train()
    images, captions = stills(count)
    ids = models.tokenize(captions)
    run = Run("clip", {"clip": model}, steps, peak, SEED, ema=0.995, weight_decay=0.05)
    chunk = len(images[0])
    for _ in tqdm(range(run.step, steps), initial=run.step, total=steps, mininterval=20):
        rows = torch.randint(0, len(ids), (batch,), generator=run.generator)
        frames = torch.stack([torch.from_numpy(images[r // chunk][r % chunk].copy()) for r in rows.tolist()])
        x = soften(crop_resize(frames.float() / 255), run.generator)
        run.advance(loss_of(model, x, ids[rows]))
    model.load_state_dict(run.ema.average["clip"])
    run.write_curve()
    publish("clip", model.state_dict(), {
        "recipe": "toyworld/training/recipes/clip.py", "seed": SEED, "steps": steps, "batch": batch,
        "minutes": round(run.minutes, 1), "parameters": sum(p.numel() for p in model.parameters()),
        "architecture": models.CLIP_CONFIG})
    add_bars("clip", measure(models.load_clip()))
