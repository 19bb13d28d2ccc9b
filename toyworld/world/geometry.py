"""World coordinates of pixels, and an object's own coordinates."""

from __future__ import annotations

import numpy as np

from .scene import Scene, Thing
from .shapes import Array


def world_grid(scene: Scene) -> tuple[Array, Array]:
    """World coordinates (x, y) of the pixel centres, each [H,W] float32."""
    unit = min(scene.height, scene.width)
    x = (np.arange(scene.width, dtype=np.float32) + 0.5 - scene.width / 2) / unit
    y = (np.arange(scene.height, dtype=np.float32) + 0.5 - scene.height / 2) / unit
    return np.broadcast_arrays(x[None, :], y[:, None])


def to_local(thing: Thing, frame: float, x: Array, y: Array) -> tuple[Array, Array, float]:
    """World -> object-local coordinates, and the object's radius."""
    cx, cy, radius, angle = thing.pose(frame)
    c, s = np.float32(np.cos(angle) / radius), np.float32(np.sin(angle) / radius)
    dx, dy = x - np.float32(cx), y - np.float32(cy)
    return c * dx + s * dy, c * dy - s * dx, radius
