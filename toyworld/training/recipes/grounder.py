"""The toy grounding, on stills with one to three things: a phrase that fits some of them, or none.

Cells within a cell and a half of the centre of a thing that fits say so (focal loss) and give its box (IoU loss). One
phrase in five names what is not there.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from ... import models
from ...models.grounder import CELL, SIDE, Grounder, centres, overlaps
from ...world.grammar import COLOURS, SHAPES, article
from ..data import still
from ..loop import Run, add_bars, publish
from .sam import CHUNK, SMALLEST, labelled

SEED = 37


def phrase_of(thing, scene, generator: torch.Generator) -> tuple[str, ...]:
    """Words that name a thing; colours have no meaning in black and white."""
    draw = int(torch.randint(4, (1,), generator=generator))
    if scene.style == "bw" or draw == 0:
        return (thing.shape,)
    if draw == 1 and thing.texture != "plain":
        return thing.texture, thing.colour, thing.shape
    return thing.colour, thing.shape


def fits(thing, words: tuple[str, ...]) -> bool:
    """Whether every word is said of a thing."""
    return set(words) <= {thing.texture, thing.colour, thing.shape}


def sample(chunk: tuple, first: int, row: int, generator: torch.Generator) -> tuple:
    """A picture [128,128,3], a phrase, and the boxes [n,4] of the visible things that it fits."""
    from ....vision.boxes import around

    (images, seen), (scene, _) = chunk, still(first + row, "train")
    visible = [i for i in range(len(scene.things)) if (seen[row] == i).sum() >= SMALLEST]
    words: tuple[str, ...] | None = None
    if not visible or torch.rand((), generator=generator) < 0.2:
        options = [(colour, shape) for colour in COLOURS for shape in SHAPES
                   if not any(fits(thing, (shape,) if scene.style == "bw" else (colour, shape))
                              for thing in scene.things)]
        words = options[int(torch.randint(len(options), (1,), generator=generator))] if options else None
    if words is None:
        if not visible:
            return images[row], "thing", torch.zeros(0, 4)
        words = phrase_of(scene.things[visible[int(torch.randint(len(visible), (1,), generator=generator))]], scene,
                          generator)
    boxes = [around(torch.from_numpy(seen[row] == i).float()) for i in visible if fits(scene.things[i], words)]
    front = ("", "the ", f"{article(words[0])} ")[int(torch.randint(3, (1,), generator=generator))]
    return images[row], front + " ".join(words), torch.stack(boxes) if boxes else torch.zeros(0, 4)


def targets_of(boxes: list[torch.Tensor], cells: int = SIDE // CELL) -> tuple[torch.Tensor, torch.Tensor]:
    """Which cells [B,g,g] are at the centre of a box, and whose box [B,g,g,4]; of two, the smaller one's."""
    hits, places = torch.zeros(len(boxes), cells, cells), torch.zeros(len(boxes), cells, cells, 4)
    middle = centres(cells)
    for hit, place, rows in zip(hits, places, boxes):
        for box in sorted(rows, key=lambda b: -float((b[2:] - b[:2]).prod())):
            away = (middle - (box[:2] + box[2:]) / 2).abs().amax(-1)
            near = (away <= 1.5 * CELL) & (middle > box[:2]).all(-1) & (middle < box[2:]).all(-1)
            near |= away == away.min()  # a thing smaller than a cell has one, too
            hit[near], place[near] = 1.0, box
    return hits, places


def loss_of(network: Grounder, images: torch.Tensor, phrases: list[str], boxes: list[torch.Tensor]) -> torch.Tensor:
    """Focal loss of the cells plus 1 - IoU of the boxes at the right ones, per right cell."""
    pictures = images.permute(0, 3, 1, 2).float() / 127.5 - 1
    logits, found = network(pictures, models.tokenize(phrases))
    hits, places = targets_of(boxes)
    entropy = F.binary_cross_entropy_with_logits(logits, hits, reduction="none")
    right = torch.where(hits > 0, logits.sigmoid(), 1 - logits.sigmoid())
    focal = ((1 - right) ** 2 * entropy).sum()
    apart = (1 - overlaps(found, places))[hits > 0].sum()
    return (focal + 2 * apart) / hits.sum().clamp(min=1)


def train(steps: int = 2600, batch: int = 32, peak: float = 3e-3, chunks: int = 8) -> None:
    """Train and publish from the running average; `chunks` of 1,000 stills are seen, the same as `sam`'s."""
    torch.manual_seed(SEED)
    network = models.build_grounder()
    data = [labelled(number) for number in range(chunks)]
    run = Run("grounder", {"grounder": network}, steps, peak, SEED, ema=0.998, weight_decay=0.01,
              plain=("words", "stem.0", "head"))
    for _ in tqdm(range(run.step, steps), initial=run.step, total=steps, mininterval=20):
        rows = torch.randint(chunks * CHUNK, (batch,), generator=run.generator).tolist()
        images, phrases, boxes = zip(*(sample(data[i // CHUNK], i // CHUNK * CHUNK, i % CHUNK, run.generator)
                                       for i in rows))
        run.advance(loss_of(network, torch.from_numpy(np.stack(images)), list(phrases), list(boxes)))
        if run.step % 1000 == 0 or run.step == steps:
            tqdm.write(f"step {run.step}: {release(run, batch, 200 if run.step == steps else 60)}")


def release(run: Run, batch: int, count: int) -> dict:
    """Publish the running average with its bars from held-out stills."""
    network = models.build_grounder()
    network.load_state_dict(run.ema.average["grounder"])
    run.write_curve()
    publish("grounder", network.state_dict(), {
        "recipe": "toyworld/training/recipes/grounder.py", "seed": SEED, "steps": run.step, "planned_steps": run.steps,
        "batch": batch, "minutes": round(run.minutes, 1), "architecture": models.GROUNDER_CONFIG,
        "parameters": sum(p.numel() for p in network.parameters())})
    bars = measure(models.load_grounder(), count)
    add_bars("grounder", bars)
    return bars


def measure(detector, count: int = 200) -> dict:
    """On held-out stills with two things or more, "the <colour> <shape>" of the main one where only it fits: mean IoU
    of the best box with its visible box (0 where none is found)."""
    from ....vision.boxes import around, corners
    from ...world.rendering import render_frame

    values: list[float] = []
    index = 0
    while len(values) < count:
        scene, frame = still(index, "test")
        index += 1
        words = (scene.main.colour, scene.main.shape)
        if len(scene.things) < 2 or scene.style == "bw" or sum(fits(thing, words) for thing in scene.things) > 1:
            continue
        image, masks = render_frame(scene, frame)
        if (masks[0] > 0.5).sum() < SMALLEST:
            continue
        (row,) = detector.detect(torch.from_numpy(image)[None], "the " + " ".join(words), 0.2)
        box = around(torch.from_numpy(masks[0]))
        values.append(overlaps(corners(row[:1])[0], box).item() if row else 0.0)
    return {"iou_text": round(float(np.mean(values)), 4)}
