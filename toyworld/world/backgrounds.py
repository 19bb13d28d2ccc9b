"""Backgrounds: soft procedural fields of any extent, and crops of the photographs that scikit-image bundles.

All are functions of world coordinates (x right, y down, in shorter sides, frame's middle at 0), which a pan shifts.
They are kept low in contrast and frequency so that a small f=8 autoencoder can carry them.
"""

from __future__ import annotations

from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from .shapes import Array, step

PHOTO_FILES = {
    "cat": "chelsea.png", "coffee": "coffee.png", "astronaut": "astronaut.png", "rocket": "rocket.jpg",
    "motorcycle": "motorcycle_left.png", "galaxies": "hubble_deep_field.jpg",
}
#: fraction of a photo window that the frame shows; the rest is room for panning
SHOWN = 0.62


def mix(first, second, amount: Array) -> Array:
    """first + amount (second - first), colours [3], amount [H,W] -> [H,W,3]."""
    a, b = np.asarray(first, np.float32), np.asarray(second, np.float32)
    return a + amount[..., None].astype(np.float32) * (b - a)


def ripples(rng: np.random.Generator, x: Array, y: Array, low: float, high: float, count: int = 5) -> Array:
    """Sum of `count` sines of random direction, low..high cycles a side; about -1..1."""
    total = np.zeros_like(x)
    for _ in range(count):
        cycles, turn, phase = rng.uniform(low, high), rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi)
        total += np.sin(2 * np.pi * cycles * (x * np.cos(turn) + y * np.sin(turn)) + phase)
    return total / np.sqrt(2 * count)


def gray(rng, x, y):
    return mix((0.46,) * 3, (0.62,) * 3, 0.5 + 0.5 * ripples(rng, x, y, 0.2, 0.7, 2))


def grass(rng, x, y):
    blades = ripples(rng, x, 0.35 * y, 3, 7) * 0.25
    return mix((0.56, 0.70, 0.36), (0.70, 0.82, 0.50), 0.5 + 0.35 * ripples(rng, x, y, 0.3, 1.2) + blades)


def sand(rng, x, y):
    return mix((0.80, 0.69, 0.50), (0.90, 0.81, 0.62), 0.5 + 0.4 * ripples(rng, 0.4 * x, y, 1, 4))


def sky(rng, x, y):
    haze = np.clip(0.5 + 0.7 * y, 0, 1)
    clouds = np.clip(ripples(rng, 0.6 * x, y, 0.6, 1.8) - 0.3, 0, 1)
    return mix((0.94, 0.96, 0.98), mix((0.45, 0.70, 0.95), (0.70, 0.86, 0.98), haze), 1 - 0.8 * clouds)


def night(rng, x, y):
    base = mix((0.07, 0.08, 0.24), (0.14, 0.15, 0.36), 0.5 + 0.5 * ripples(rng, x, y, 0.2, 0.9, 3))
    glow = np.zeros_like(x)
    for u, v in rng.uniform(0, 1.5, (12, 2)):  # soft stars on a tile that repeats outside the frame
        dx, dy = (x - u + 0.75) % 1.5 - 0.75, (y - v + 0.75) % 1.5 - 0.75
        glow += np.exp(-(dx * dx + dy * dy) / (2 * 0.013**2))
    return base + 0.45 * glow[..., None].astype(np.float32)


def sea(rng, x, y):
    bend = 0.03 * np.sin(2 * np.pi * rng.uniform(1, 2) * x + rng.uniform(0, 6))
    waves = np.sin(2 * np.pi * rng.uniform(4, 6) * (y + bend))
    return mix((0.14, 0.48, 0.58), (0.26, 0.62, 0.70), 0.5 + 0.25 * waves + 0.25 * ripples(rng, x, y, 0.3, 1.0))


def pink(rng, x, y):
    stripes = np.sin(2 * np.pi * rng.uniform(3, 5) * x)
    return mix((0.92, 0.68, 0.76), (0.98, 0.78, 0.84), 0.5 + 0.2 * stripes + 0.2 * ripples(rng, x, y, 0.2, 0.8))


def brick(rng, x, y):
    row = np.floor(y / 0.14)
    shift = rng.uniform(0, 1)
    u = np.abs(((x / 0.28 + 0.5 * (row % 2) + shift) % 1) - 0.5) * 0.28  # 0.14 at a joint
    v = np.abs((y / 0.14) % 1 - 0.5) * 0.14  # 0.07 at a joint
    mortar: Array = 1 - step(np.maximum(u - 0.127, v - 0.057), 0.016)
    tone = 0.5 + 0.4 * ripples(rng, x, y, 0.4, 1.4)
    return mix(mix((0.62, 0.38, 0.31), (0.72, 0.47, 0.38), tone), (0.80, 0.70, 0.64), 0.7 * mortar)


PROCEDURAL = {
    "gray": gray, "grass": grass, "sand": sand, "sky": sky, "night": night, "sea": sea, "pink": pink, "brick": brick,
}


@cache
def photograph(name: str):
    """The bundled photograph as a PIL image; scikit-image is located, not imported."""
    from PIL import Image

    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("Photo backgrounds of the toy world need scikit-image: pip install scikit-image.")
    path = Path(spec.origin).parent / "data" / PHOTO_FILES[name]
    with Image.open(path) as image:
        return image.convert("RGB")


@lru_cache(maxsize=64)
def photo_window(name: str, key: int, held_out: bool, side: int) -> Array:
    """A random square of a photograph, slightly out of focus, as float [side, side, 3].

    Held-out windows are mirrored, so none of them is a crop that training saw.
    """
    from PIL import Image, ImageFilter, ImageOps

    rng = np.random.default_rng([key, 7])
    image = photograph(name)
    crop = min(image.size) * rng.uniform(0.75, 1.0)
    left, top = rng.uniform(0, image.width - crop), rng.uniform(0, image.height - crop)
    image = image.resize((side, side), Image.LANCZOS, box=(left, top, left + crop, top + crop))
    image = image.filter(ImageFilter.GaussianBlur(0.006 * side))
    if held_out:
        image = ImageOps.mirror(image)
    return np.asarray(image, np.float32) / 255


def photo(name: str, key: int, held_out: bool, x: Array, y: Array) -> Array:
    """Bilinear samples of the window at world coordinates; the window mirrors at its borders."""
    side = int(np.ceil(x.shape[0] if x.shape[0] < x.shape[1] else x.shape[1]) / SHOWN)
    window = photo_window(name, key, held_out, side)
    scale = min(x.shape)  # pixels per unit: one window pixel per frame pixel

    def fold(position: Array) -> Array:
        position = np.abs((position + side / 2 - 0.5) % (2 * side))
        return np.minimum(np.where(position > side - 1, 2 * side - 1 - position, position).clip(0), side - 1 - 1e-3)

    u, v = fold(x * scale), fold(y * scale)
    i: Array = u.astype(np.int64)
    j: Array = v.astype(np.int64)
    a, b = (u - i)[..., None].astype(np.float32), (v - j)[..., None].astype(np.float32)
    top = window[j, i] * (1 - a) + window[j, i + 1] * a
    bottom = window[j + 1, i] * (1 - a) + window[j + 1, i + 1] * a
    return top * (1 - b) + bottom * b


def background(name: str, key: int, held_out: bool, x: Array, y: Array) -> Array:
    """Background `name` at world coordinates [H,W] -> float32 [H,W,3]."""
    if name in PHOTO_FILES:
        return photo(name, key, held_out, x, y)
    return PROCEDURAL[name](np.random.default_rng([key, 5]), x, y)
