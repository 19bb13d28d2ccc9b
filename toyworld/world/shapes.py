"""Signed-distance functions of the shapes, and their textures, in object-local coordinates.

Local coordinates (x right, y down) are the frame's, moved to the object's centre, turned back by its angle and
divided by its radius, so that every shape about fills the unit disc and textures turn with the object. A signed
distance is negative inside. After Quilez, "2D distance functions" (https://iquilezles.org/articles/distfunctions2d/).
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def ball(x: Array, y: Array) -> Array:
    return np.hypot(x, y) - 0.92


def box(x: Array, y: Array, half_x: float, half_y: float) -> Array:
    """Exact distance to an axis-aligned box."""
    dx, dy = np.abs(x) - half_x, np.abs(y) - half_y
    return np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0)


def square(x: Array, y: Array) -> Array:
    return box(x, y, 0.76, 0.76)


def polygon(x: Array, y: Array, corners: list[tuple[float, float]]) -> Array:
    """Exact distance to a simple polygon: nearest edge, sign by crossings."""
    nearest = np.full_like(x, np.inf)
    inside = np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1]):
        ex, ey, px, py = bx - ax, by - ay, x - ax, y - ay
        along = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
        nearest = np.minimum(nearest, (px - along * ex) ** 2 + (py - along * ey) ** 2)
        if ey != 0:
            inside ^= ((ay > y) != (by > y)) & (px < ex * py / ey)
    distance = np.sqrt(nearest)
    return np.where(inside, -distance, distance)


TRIANGLE = [(0.0, -0.98), (0.95, 0.72), (-0.95, 0.72)]
STAR = [
    (r * np.sin(k * np.pi / 5), -r * np.cos(k * np.pi / 5))
    for k in range(10) for r in [1.06 if k % 2 == 0 else 0.47]
]
TAIL = [(0.30, 0.0), (1.02, -0.62), (0.86, 0.0), (1.02, 0.62)]
ROOF = [(0.0, -1.0), (0.98, -0.16), (-0.98, -0.16)]


def triangle(x: Array, y: Array) -> Array:
    return polygon(x, y, TRIANGLE)


def star(x: Array, y: Array) -> Array:
    return polygon(x, y, STAR)


def heart(x: Array, y: Array) -> Array:
    """Quilez's heart, tip at (0,0) and height about 1.1 there, scaled to the unit disc."""
    scale = 1.62
    px, py = np.abs(x) / scale, (0.92 - y) / scale
    upper = np.hypot(px - 0.25, py - 0.75) - np.sqrt(2) / 4
    half = 0.5 * np.maximum(px + py, 0)
    lower = np.sqrt(np.minimum(px**2 + (py - 1) ** 2, (px - half) ** 2 + (py - half) ** 2)) * np.sign(px - py)
    return np.where(px + py > 1, upper, lower) * scale


def ring(x: Array, y: Array) -> Array:
    return np.abs(np.hypot(x, y) - 0.68) - 0.27


def fish_body(x: Array, y: Array) -> Array:
    """Ellipse (first-order distance f / |grad f|, exact enough within a pixel of the edge)."""
    u, v = (x + 0.24) / 0.76, y / 0.52
    f = u * u + v * v - 1
    return f / (2 * np.hypot(u / 0.76, v / 0.52) + 1e-3)


def fish(x: Array, y: Array) -> Array:
    return np.minimum(fish_body(x, y), polygon(x, y, TAIL))


def house(x: Array, y: Array) -> Array:
    return np.minimum(box(x, y - 0.38, 0.70, 0.56), polygon(x, y, ROOF))


SDF = {
    "ball": ball, "square": square, "triangle": triangle, "star": star, "heart": heart, "ring": ring, "fish": fish,
    "house": house,
}


def step(distance: Array, width: float) -> Array:
    """Anti-aliased indicator of distance < 0, over `width` local units."""
    return np.clip(0.5 - distance / width, 0.0, 1.0)


def detail(shape: str, x: Array, y: Array, width: float) -> Array | None:
    """Where a two-tone sprite shows its second tone, 0..1; None for one-tone shapes."""
    if shape == "fish":
        eye = np.hypot(x + 0.62, y + 0.12) - 0.13
        return step(np.minimum(-fish_body(x, y), eye), width)  # tail and eye
    if shape == "house":
        door = box(x, y - 0.60, 0.20, 0.34)
        return step(np.minimum(y + 0.17, door), width)  # roof and door
    return None


def pattern(texture: str, x: Array, y: Array, width: float) -> Array | None:
    """Where a texture shows its second tone, 0..1; None for plain."""
    if texture == "striped":
        period = 0.62  # y-distance to the nearest light band's edge
        return step(np.abs((y / period + 0.25) % 1 - 0.5) * period - 0.25 * period, width)
    if texture == "dotted":
        period = 0.66
        u, v = (x / period + 0.5) % 1 - 0.5, (y / period + 0.5) % 1 - 0.5
        return step((np.hypot(u, v) - 0.29) * period, width)
    if texture == "checkered":
        period = 0.56
        u = np.abs((x / period) % 2 - 1) - 0.5
        v = np.abs((y / period) % 2 - 1) - 0.5
        near = np.minimum(np.abs(u), np.abs(v)) * np.sign(u * v) * period
        return step(near, width)
    return None
