"""The judge: cross-entropy on renders, seen whole or cropped around the main object, softened as a decoder would.

Augmentation stands for what the judge must see through: mild blur, mild noise, a little brightness. Colour carries no
loss in black and white (it is not in the picture).
"""

from __future__ import annotations

import torch
from torch.nn import functional as F
from tqdm import tqdm

from ... import models
from ...models.classifier import HEADS, crop_resize
from ...world.rendering import render_frame
from ...world.scene import sample_scene
from ..data import stills
from ..loop import Run, add_bars, publish

SEED = 23


def labels_of(index: int, split: str = "train") -> list[float]:
    """Class index per head for still `index`, then the main object's box as (left, top, right, bottom) fractions."""
    scene = sample_scene(index, split, frames=32)
    main = scene.main
    values = {"colour": main.colour, "shape": main.shape, "texture": main.texture, "background": scene.background,
              "style": scene.style}
    x, y, radius, _ = main.pose(index * 7 % 32)
    unit = min(scene.width, scene.height)
    return [*(HEADS[h].index(values[h]) for h in HEADS),
            x + 0.5 * scene.width / unit, y + 0.5 * scene.height / unit, radius]


def boxes_for(pose: torch.Tensor, generator: torch.Generator, side: int) -> torch.Tensor:
    """Whole frame half the time, else a jittered box around the main object; [B,4] pixels."""
    count = len(pose)
    jitter = torch.rand((count, 4), generator=generator)
    half = pose[:, 2] * (1.35 + 0.75 * jitter[:, 0])
    cx = pose[:, 0] + (jitter[:, 1] - 0.5) * 0.3 * pose[:, 2]
    cy = pose[:, 1] + (jitter[:, 2] - 0.5) * 0.3 * pose[:, 2]
    near = torch.stack([cx - half, cy - half, cx + half, cy + half], dim=1)
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0])
    return torch.where(jitter[:, 3:] < 0.5, near, whole) * side


def soften(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Blur by down- and upsampling, blend, noise, brightness; x [B,3,64,64] in [-1,1]."""
    amount = torch.rand((len(x), 3, 1, 1, 1), generator=generator)
    small = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0, mode="bilinear", align_corners=False)
    smaller = F.interpolate(F.avg_pool2d(x, 4), scale_factor=4.0, mode="bilinear", align_corners=False)
    blurred = torch.where(amount[:, 1] < 0.3, smaller, small)
    x = x + (amount[:, 0] * 1.2).clamp(max=0.9) * (blurred - x) * (amount[:, 2] < 0.7)
    gain = 1 + 0.12 * (torch.rand((len(x), 1, 1, 1), generator=generator) - 0.5)
    noise = torch.randn(x.shape, generator=generator) * 0.10 * torch.rand((len(x), 1, 1, 1), generator=generator)
    return (x * gain + noise).clamp(-1, 1)


def loss_of(model, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum of the heads' cross-entropies; labels [B,5] in the order of HEADS."""
    logits = model(x)
    gray = labels[:, list(HEADS).index("style")] == HEADS["style"].index("bw")
    total = x.new_zeros(())
    for i, name in enumerate(HEADS):
        target = labels[:, i].clone()
        if name == "colour":
            target[gray] = -100
        weight = {"colour": 1.0, "shape": 2.0}.get(name, 0.5)
        total = total + weight * F.cross_entropy(logits[name], target, ignore_index=-100)
    return total


@torch.no_grad()
def measure(model, count: int = 1000, boxes: bool = False) -> dict:
    """Accuracy per head on held-out renders, whole frames (or boxes around the main object)."""
    scenes = [sample_scene(50_000 + i, "test", frames=32) for i in range(count)]
    right: dict[str, list[bool]] = {name: [] for name in HEADS}
    for start in range(0, count, 100):
        part = scenes[start:start + 100]
        frames = torch.stack([torch.from_numpy(render_frame(s, (start + i) % 32)[0]) for i, s in enumerate(part)])
        where = None
        if boxes:
            poses = [s.main.pose((start + i) % 32) for i, s in enumerate(part)]
            where = torch.tensor([[x + 0.5 - 1.7 * r, y + 0.5 - 1.7 * r, x + 0.5 + 1.7 * r, y + 0.5 + 1.7 * r]
                                  for x, y, r, _ in poses]) * 128
        logits = model(crop_resize(frames, where))
        for i, scene in enumerate(part):
            truth = {"colour": scene.main.colour, "shape": scene.main.shape, "texture": scene.main.texture,
                     "background": scene.background, "style": scene.style}
            for name, names in HEADS.items():
                if name != "colour" or scene.style != "bw":
                    right[name].append(names[int(logits[name][i].argmax())] == truth[name])
    return {f"accuracy_{name}{'_boxed' if boxes else ''}": round(sum(v) / len(v), 4) for name, v in right.items()}


def train(steps: int = 5000, batch: int = 32, peak: float = 4e-3, count: int = 26000) -> None:
    """Train and publish."""
    torch.manual_seed(SEED)
    model = models.build_classifier()
    images, _ = stills(count)
    table = torch.tensor([labels_of(i) for i in range(sum(len(c) for c in images))])
    run = Run("classifier", {"classifier": model}, steps, peak, SEED, ema=0.995, weight_decay=0.02)
    chunk = len(images[0])
    for _ in tqdm(range(run.step, steps), initial=run.step, total=steps, mininterval=20):
        rows = torch.randint(0, len(table), (batch,), generator=run.generator)
        frames = torch.stack([torch.from_numpy(images[r // chunk][r % chunk].copy()) for r in rows.tolist()])
        boxes = boxes_for(table[rows, 5:], run.generator, frames.shape[1])
        x = soften(crop_resize(frames.float() / 255, boxes), run.generator)
        run.advance(loss_of(model, x, table[rows, :5].long()))
    model.load_state_dict(run.ema.average["classifier"])
    run.write_curve()
    publish("classifier", model.state_dict(), {
        "recipe": "toyworld/training/recipes/classifier.py", "seed": SEED, "steps": steps, "batch": batch,
        "minutes": round(run.minutes, 1), "parameters": sum(p.numel() for p in model.parameters()),
        "architecture": {"input": [3, 64, 64], "heads": {k: list(v) for k, v in HEADS.items()}}})
    judge = models.load_classifier()
    add_bars("classifier", {**measure(judge), **measure(judge, boxes=True)})
