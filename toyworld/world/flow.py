"""Exact forward optical flow: each visible point moves with its owner, an object's similarity map or the pan.

A point x seen on object o at frame t has local coordinates p = R(-a) (x - c) / r; it lies at x' = r' R(a') p + c' at
t+1. Background points move by minus the pan. Valid = the owner is the same and the point is seen in both frames, with
a margin of the anti-aliased edge.
"""

from __future__ import annotations

import numpy as np

from .geometry import to_local, world_grid
from .scene import Scene, Thing
from .shapes import SDF, Array

#: pixels around silhouettes that are left out: colours mix there
MARGIN = 2.0


def distances(scene: Scene, frame: int, x: Array, y: Array) -> list[Array]:
    """Signed distance to each object, in pixels."""
    unit = min(scene.height, scene.width)
    result = []
    for thing in scene.things:
        u, v, radius = to_local(thing, frame, x, y)
        result.append(SDF[thing.shape](u, v) * radius * unit)
    return result


def owner(scene: Scene, frame: int, x: Array, y: Array) -> tuple[Array, Array]:
    """Index of the visible object at world points (-1 = background), and whether the answer is clear of edges."""
    who = np.full(x.shape, -1)
    clear = np.ones(x.shape, bool)
    for index in sorted(range(len(scene.things)), key=lambda i: scene.things[i].depth):
        distance = distances(scene, frame, x, y)[index]
        clear = np.where(distance < -MARGIN, True, clear & (distance > MARGIN))
        who = np.where(distance < 0, index, who)
    return who, clear


def carry(thing: Thing, frame: int, x: Array, y: Array) -> tuple[Array, Array]:
    """Where points that ride on `thing` at `frame` are one frame later."""
    u, v, _ = to_local(thing, frame, x, y)
    cx, cy, radius, angle = thing.pose(frame + 1)
    c, s = np.float32(radius * np.cos(angle)), np.float32(radius * np.sin(angle))
    return c * u - s * v + np.float32(cx), s * u + c * v + np.float32(cy)


def forward_flow(scene: Scene) -> tuple[Array, Array]:
    """Flow [F-1,H,W,2] float32 in pixels (x, y) and its validity [F-1,H,W] bool."""
    x, y = world_grid(scene)
    unit = min(scene.height, scene.width)
    flows = np.zeros((scene.frames - 1, *x.shape, 2), np.float32)
    valid = np.zeros((scene.frames - 1, *x.shape), bool)
    for frame in range(scene.frames - 1):
        who, clear = owner(scene, frame, x, y)
        next_x, next_y = x - np.float32(scene.pan[0]), y - np.float32(scene.pan[1])
        for index, thing in enumerate(scene.things):
            moved_x, moved_y = carry(thing, frame, x, y)
            next_x, next_y = np.where(who == index, moved_x, next_x), np.where(who == index, moved_y, next_y)
        then, then_clear = owner(scene, frame + 1, next_x, next_y)
        half_x, half_y = (scene.width - 1) / (2 * unit), (scene.height - 1) / (2 * unit)
        seen = (np.abs(next_x) <= half_x) & (np.abs(next_y) <= half_y)
        flows[frame] = np.stack([next_x - x, next_y - y], axis=-1) * unit
        valid[frame] = clear & then_clear & (who == then) & seen
    return flows, valid
