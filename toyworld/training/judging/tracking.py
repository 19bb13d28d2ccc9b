"""Clips in which something passes in front of what is followed, and how well a tracker follows it."""

from __future__ import annotations

from dataclasses import replace

import torch

from ...world.grammar import COLOURS
from ...world.rendering import render
from ...world.scene import Scene, Thing, Wave, sample_scene

FRAMES = 32
#: Fewer visible pixels are not judged; an object of which less than this share is visible is hidden.
SMALLEST, HIDDEN = 40, 0.1


def crossed(scene: Scene) -> Scene:
    """The scene's main object alone, and a larger ball of another colour that passes wholly in front of it."""
    main, half = scene.main, (scene.frames - 1) / 2
    x, _, radius, _ = main.pose(half)
    speed = 3.4 * radius / (0.3 * scene.frames)
    period = 100 * scene.frames  # a sine so long is a line
    still = Wave(0.0, 0.0, 1.0, 0.0)
    turn = 2 * torch.pi / period
    colours = [colour for colour in COLOURS if colour != main.colour]
    ball = Thing(colour=colours[scene.key % len(colours)], shape="ball", texture="plain", y=main.y,
                 x=Wave(x, speed / turn, period, -turn * half), radius=replace(still, base=1.6 * radius), angle=still,
                 depth=main.depth + 1)
    return replace(scene, things=(main, ball))


def share_seen(scene: Scene, masks: torch.Tensor) -> torch.Tensor:
    """How much of the main object [T] is not behind something, of its visible masks [T,H,W]."""
    whole = render(replace(scene, things=scene.things[:1])).masks[0]
    return masks.sum((1, 2)) / whole.sum((1, 2)).clamp(min=1)


def judge_tracking(segmenter, clips: int = 8, split: str = "test", offset: int = 300) -> dict:
    """Follow the main object from the first of 32 frames of `crossed` scenes, by optical flow and `segmenter`.

    `iou_tracked_crossed`: mean IoU over frames in which it can be seen; `found_again`: mean IoU over those behind the
    crossing; `confidence_seen`, `confidence_hidden`: mean confidence where all of it can be seen, and where none;
    `told_hidden`: share of hidden frames whose confidence is below every wholly visible frame's of the clip.
    """
    from ....vision.track import track

    overlap, after, sure_seen, sure_hidden, below_seen = [], [], [], [], []
    for seed in range(offset, offset + clips):
        scene = crossed(sample_scene(seed, split, frames=FRAMES, size=128))
        clip = render(scene)
        true = clip.masks[0]
        share = share_seen(scene, true)
        masks, sure = track(clip.frames, {0: true[0]}, segmenter)
        both = ((masks > 0.5) & (true > 0.5)).sum((1, 2)) / ((masks > 0.5) | (true > 0.5)).sum((1, 2)).clamp(min=1)
        judged, hidden, whole = (true > 0.5).sum((1, 2)) >= SMALLEST, share < HIDDEN, share > 0.9
        overlap += both[judged].tolist()
        if hidden.any():
            last = int(hidden.nonzero().max())
            after += both[last + 1:][judged[last + 1:]].tolist()
            below_seen += (sure[hidden] < sure[whole].min()).tolist()
        sure_seen += sure[whole].tolist()
        sure_hidden += sure[hidden].tolist()
    values = {"iou_tracked_crossed": overlap, "found_again": after, "confidence_seen": sure_seen,
              "confidence_hidden": sure_hidden, "told_hidden": below_seen}
    return {"clips_crossed": clips, **{
        name: round(float(torch.tensor(rows).float().mean()), 4) for name, rows in values.items() if rows}}
