"""Segment Anything's architecture with a small encoder, on stills: masks from a box, from a point, and refined.

Each step asks for one visible object a still, three times: by its loosened box (one mask), by one point inside (three
masks, of which the best learns, as in the paper), and by that point, the mask it gave and a point of the error. Saved
under the official key names, so that it loads wherever a Segment Anything checkpoint does.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from ... import models
from ...world.rendering import render_frame
from ..data import CACHE, still
from ..loop import Run, add_bars, publish

SEED = 31
CHUNK = 1000
#: Objects of fewer pixels are not asked for.
SMALLEST = 40
NOTHING = 255


def labelled(number: int, split: str = "train", count: int = CHUNK) -> tuple[np.ndarray, np.ndarray]:
    """Stills [n,128,128,3] uint8 of one chunk and which object is seen where [n,128,128] (NOTHING: none)."""
    path = CACHE / f"sam_{split}_{number:03d}_{count}.npz"
    if not path.exists():
        CACHE.mkdir(exist_ok=True)
        rows = [render_frame(*still(i, split)) for i in range(number * count, (number + 1) * count)]
        images = np.stack([np.round(image * 255).astype(np.uint8) for image, _ in rows])
        seen = np.stack([np.where(masks.max(0) > 0.5, masks.argmax(0), NOTHING).astype(np.uint8) for _, masks in rows])
        np.savez(path, images=images, seen=seen)
    with np.load(path) as file:
        return file["images"], file["seen"]


def normalised(images: torch.Tensor) -> torch.Tensor:
    """uint8 [B,H,W,3] -> the network's input [B,3,H,W]."""
    from ....vision.segmentation.geometry import DEVIATION, MEAN

    return (images.permute(0, 3, 1, 2).float() - torch.tensor(MEAN)[:, None, None]) / torch.tensor(
        DEVIATION)[:, None, None]


def batch_of(chunks: list, size: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Stills, turned and mirrored, and one object's mask of each: uint8 [B,128,128,3], float [B,128,128]."""
    pick = lambda n: int(torch.randint(n, (1,), generator=generator))  # noqa: E731
    images: list[torch.Tensor] = []
    masks: list[torch.Tensor] = []
    while len(images) < size:
        pictures, seen = chunks[pick(len(chunks))]
        row = pick(len(pictures))
        areas = np.bincount(seen[row].ravel(), minlength=256)[:NOTHING]
        objects = np.flatnonzero(areas >= SMALLEST)
        if not len(objects):
            continue
        turns, mirror = pick(4), pick(2)
        parts = [torch.from_numpy(part).rot90(turns) for part in (
            pictures[row], seen[row] == objects[pick(len(objects))])]
        images.append(parts[0].flip(1) if mirror else parts[0])
        masks.append((parts[1].flip(1) if mirror else parts[1]).float())
    return torch.stack(images), torch.stack(masks)


def boxes_of(masks: torch.Tensor, generator: torch.Generator | None = None, loose: float = 0.1) -> torch.Tensor:
    """[B,4] corners around masks [B,H,W]; with a generator each side moves by up to `loose` of the box."""
    from ....vision.boxes import around

    boxes = torch.stack([around(mask) for mask in masks])
    if generator is None:
        return boxes
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    moved = boxes + (torch.rand(boxes.shape, generator=generator) * 2 - 1) * loose * sides
    return moved.clamp(0, masks.shape[-1])


def points_in(regions: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """One random pixel's centre [B,2] x, y of each region [B,H,W]; of the whole picture where a region is empty."""
    flat = regions.flatten(1) + 1e-9
    index = torch.multinomial(flat, 1, generator=generator)[:, 0]
    width = regions.shape[-1]
    return torch.stack([index % width, index // width], 1).float()


def losses(logits: torch.Tensor, scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Per sample and mask [B,c]: 5 BCE + dice + squared error of the predicted IoU.

    logits [B,c,m,m], scores [B,c], target [B,H,W] of 0 and 1.
    """
    logits = F.interpolate(logits, target.shape[-2:], mode="bilinear", align_corners=False)
    truth = target[:, None].expand_as(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean((2, 3))
    chance = logits.sigmoid()
    dice = 1 - (2 * (chance * truth).sum((2, 3)) + 1) / (chance.sum((2, 3)) + truth.sum((2, 3)) + 1)
    with torch.no_grad():
        inside = logits > 0
        both = (inside & (truth > 0.5)).sum((2, 3)).float()
        overlap = both / (inside | (truth > 0.5)).sum((2, 3)).clamp(min=1)
    return 5 * entropy + dice + (scores - overlap) ** 2


def loss_of(network: nn.Module, images: torch.Tensor, masks: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The three requests of one batch, averaged."""
    embedding = network.vision_encoder(normalised(images))[0]

    def ask(multimask: bool, **prompt: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        done = network(image_embeddings=embedding, multimask_output=multimask, **prompt)
        return done.pred_masks[:, 0], done.iou_scores[:, 0]

    by_box = losses(*ask(False, input_boxes=boxes_of(masks, generator)[:, None]), masks)[:, 0]
    point = points_in(masks, generator)
    inside = torch.ones(len(masks), 1, 1, dtype=torch.int32)
    logits, scores = ask(True, input_points=point[:, None, None], input_labels=inside)
    by_point, best = losses(logits, scores, masks).min(1)
    # Next, where the best of the three was wrong, as a user would click.
    first = logits[torch.arange(len(best)), best][:, None].detach()
    guess = (F.interpolate(first, masks.shape[-2:], mode="bilinear", align_corners=False)[:, 0] > 0).float()
    more = points_in((guess != masks).float(), generator)
    label = masks[torch.arange(len(masks)), more[:, 1].long(), more[:, 0].long()].int()
    refined = losses(*ask(False, input_points=torch.stack([point, more], 1)[:, None], input_masks=first,
                          input_labels=torch.stack([inside[:, 0, 0], label], 1)[:, None]), masks)[:, 0]
    return (by_box + by_point + refined).mean() / 3


def started() -> nn.Module:
    """The untrained network: torch's usual start, which transformers' tiny deviations would only delay."""
    network = models.build_sam()
    for module in network.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    with torch.no_grad():
        network.vision_encoder.pos_embed.normal_(0, 0.02)
        network.shared_image_embedding.positional_embedding.normal_()
    # One Fourier matrix under two names, never trained.
    network.prompt_encoder.shared_embedding = network.shared_image_embedding
    network.shared_image_embedding.requires_grad_(False)
    return network.train()


def train(steps: int = 2600, batch: int = 12, peak: float = 2e-3, chunks: int = 8) -> None:
    """Train and publish from the running average; `chunks` of 1,000 stills are seen, turned and mirrored."""
    torch.manual_seed(SEED)
    network = started()
    data = [labelled(number) for number in range(chunks)]
    run = Run("sam", {"sam": network}, steps, peak, SEED, ema=0.998, weight_decay=0.01,
              plain=("pos_embed", "rel_pos", "_embed", "token", "embedding", "proj_out", "upscale"))
    for _ in tqdm(range(run.step, steps), initial=run.step, total=steps, mininterval=20):
        run.advance(loss_of(network, *batch_of(data, batch, run.generator), run.generator))
        if run.step % 1000 == 0 or run.step == steps:
            last = run.step == steps
            tqdm.write(f"step {run.step}: {release(run, batch, 100 if last else 30, 6 if last else 0)}")


def release(run: Run, batch: int, count: int, clips: int) -> dict:
    """Publish the running average with its bars from held-out stills and clips."""
    from ....vision.segmentation import names

    network = models.build_sam()
    network.load_state_dict(run.ema.average["sam"])
    shape = models.sam_shape()
    run.write_curve()
    publish("sam", names.to_official(network.state_dict(), names.official_names(shape)), {
        "recipe": "toyworld/training/recipes/sam.py", "seed": SEED, "steps": run.step, "planned_steps": run.steps,
        "batch": batch, "minutes": round(run.minutes, 1), "architecture": models.SAM_CONFIG,
        "parameters": sum(p.numel() for p in network.parameters())})
    bars = measure(models.load_sam(), count, clips)
    add_bars("sam", bars)
    return bars


def iou(found: torch.Tensor, true: torch.Tensor) -> float:
    """Overlap of two masks [H,W]."""
    found, true = found > 0.5, true > 0.5
    return ((found & true).sum() / (found | true).sum().clamp(min=1)).item()


@torch.no_grad()
def measure(segmenter, count: int = 100, clips: int = 6) -> dict:
    """Held-out IoU of every object of SMALLEST visible pixels or more: from its box and from its innermost point; of
    the main object tracked from the first of 32 frames, over the frames in which it can be seen; and `judge_tracking`
    on as many clips in which it is hidden for a while."""
    from scipy.ndimage import distance_transform_edt

    from ....vision.segmentation import Prompt, segment_frame
    from ....vision.track import track
    from ...world.rendering import render
    from ...world.scene import sample_scene
    from ..judging.tracking import judge_tracking

    by_box: list[float] = []
    by_point: list[float] = []
    for image, masks in (render_frame(*still(i, "test")) for i in range(count)):
        (features,) = segmenter.encode(torch.from_numpy(image)[None])
        for mask in torch.from_numpy(masks > 0.5).float():
            if mask.sum() < SMALLEST:
                continue
            depth = distance_transform_edt(mask.numpy())
            y, x = np.unravel_index(depth.argmax(), depth.shape)
            point = Prompt(points=torch.tensor([[[float(x), float(y)]]]), labels=torch.ones(1, 1))
            for overlaps, prompt in ((by_box, Prompt(boxes=boxes_of(mask[None]))), (by_point, point)):
                overlaps.append(iou(segment_frame(segmenter, features, prompt).masks[0, 0] > 0, mask))
    tracked = []
    for seed in range(clips):
        clip = render(sample_scene(seed, "test", frames=32, size=128))
        masks, _ = track(clip.frames, {0: clip.masks[0][0]}, segmenter)
        tracked += [iou(*pair) for pair in zip(masks, clip.masks[0]) if (pair[1] > 0.5).sum() >= SMALLEST]
    mean = lambda values: round(float(np.mean(values)), 4)  # noqa: E731
    bars = {"iou_box": by_box, "iou_point": by_point, "iou_tracked": tracked}
    found = {name: mean(values) for name, values in bars.items() if values}
    return {**found, **judge_tracking(segmenter, clips)} if clips else found
