"""A scene: everything that determines a clip, drawn from one integer.

Lengths are fractions of the frame's shorter side, times are frames, so a scene renders at any size and length and the
same seed shows the same world. Scene seeds of different splits cannot meet: key = 4 seed + index of the split.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import cos, pi, sin

import numpy as np

from .grammar import BACKGROUNDS, COLOURS, INVISIBLE, PHOTOS, SHAPES, STYLES, TEXTURES, caption

SPLITS = ("train", "validation", "test", "demo")
PHOTO_SHARE = 0.2


@dataclass(frozen=True)
class Wave:
    """value(t) = base + amplitude sin(2 pi t / period + phase), t in frames."""

    base: float
    amplitude: float
    period: float
    phase: float

    def at(self, frame: float) -> float:
        return self.base + self.amplitude * sin(2 * pi * frame / self.period + self.phase)


@dataclass(frozen=True)
class Thing:
    """One object. x, y: centre, from the frame's middle, in shorter sides; angle in radians; depth: larger = nearer."""

    colour: str
    shape: str
    texture: str
    x: Wave
    y: Wave
    radius: Wave
    angle: Wave
    depth: int

    def pose(self, frame: float) -> tuple[float, float, float, float]:
        """(x, y, radius, angle) at a frame."""
        return self.x.at(frame), self.y.at(frame), self.radius.at(frame), self.angle.at(frame)


@dataclass(frozen=True)
class Scene:
    """A clip before it is rendered; `things[0]` is the main object."""

    key: int
    split: str
    frames: int
    height: int
    width: int
    things: tuple[Thing, ...]
    background: str
    style: str
    pan: tuple[float, float]

    @property
    def main(self) -> Thing:
        return self.things[0]

    @property
    def caption(self) -> str:
        return caption([(t.colour, t.shape, t.texture) for t in self.things], self.background, self.style)


def place(rng: np.random.Generator, radius: float, anchor: tuple[float, float], extent: tuple[float, float],
          swing: float, wobble: float = 0.1) -> dict[str, Wave]:
    """Waves that keep a disc of `radius` about `anchor` inside +-extent."""
    waves = {}
    for name, centre, limit in zip("xy", anchor, extent):
        room = max(limit - 1.12 * radius - 0.01, 0.0)
        amplitude = min(float(rng.uniform(0.3, 1.0)) * swing, room)
        centre = float(np.clip(centre, amplitude - room, room - amplitude))
        waves[name] = Wave(centre, amplitude, float(rng.uniform(18, 36)), float(rng.uniform(0, 2 * pi)))
    waves["radius"] = Wave(radius, wobble * radius, float(rng.uniform(16, 32)), float(rng.uniform(0, 2 * pi)))
    waves["angle"] = Wave(float(rng.uniform(-0.25, 0.25)), float(rng.uniform(0.1, 0.45)),
                          float(rng.uniform(16, 32)), float(rng.uniform(0, 2 * pi)))
    return waves


def sample_scene(seed: int, split: str = "train", frames: int = 8, size: int | tuple[int, int] = 128,
                 **overrides) -> Scene:
    """Draw a scene.

    Args:
        seed: any non-negative integer; the same seed in two splits gives unrelated scenes.
        size: side, or (height, width), pixels.
        overrides: colour, shape, texture (of the main object), background, style, objects (their number),
            photo (bool: force or forbid a photo background). They change nothing else of the scene.
    """
    unknown = set(overrides) - {"colour", "shape", "texture", "background", "style", "objects", "photo"}
    if unknown:
        raise ValueError(f"sample_scene knows no option {sorted(unknown)}.")
    height, width = (size, size) if isinstance(size, int) else size
    key = 4 * seed + SPLITS.index(split)
    rng = np.random.default_rng(key)
    extent = (0.5 * width / min(height, width), 0.5 * height / min(height, width))

    # every draw happens whatever the overrides say, so that an override moves nothing else
    colours, shapes = rng.permutation(list(COLOURS)).tolist(), rng.permutation(list(SHAPES)).tolist()
    textures = rng.choice(TEXTURES, 3, p=[0.55, 0.15, 0.15, 0.15]).tolist()
    count = int(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15]))
    is_photo = rng.random() < PHOTO_SHARE
    plain_name, photo_name = str(rng.choice(list(BACKGROUNDS))), str(rng.choice(list(PHOTOS)))
    style = str(rng.choice(list(STYLES), p=[0.6, 0.1, 0.1, 0.1, 0.1]))
    pan = rng.uniform(-0.008, 0.008, 2) * (rng.random() < 0.4)

    count = overrides.get("objects", count)
    is_photo = overrides.get("photo", is_photo)
    background = overrides.get("background", photo_name if is_photo else plain_name)
    style = overrides.get("style", style)
    for name, names in (("colour", colours), ("shape", shapes)):
        if name in overrides:  # swap, so that objects stay different
            i = names.index(overrides[name])
            names[0], names[i] = names[i], names[0]
    textures[0] = overrides.get("texture", textures[0])
    if "colour" not in overrides:
        colours.sort(key=lambda c: (c, background) in INVISIBLE)  # stable: only the invisible one moves to the end

    things = []
    side = float(rng.uniform(0, 2 * pi))
    for i in range(3):
        if i == 0:
            radius = float(rng.uniform(0.20, 0.28) if count == 1 else rng.uniform(0.18, 0.22))
            anchor, depth = tuple(rng.uniform(-0.12, 0.12, 2)), 1
        else:
            radius = float(rng.uniform(0.10, 0.135))
            turn = side + (i - 1) * pi * float(rng.uniform(0.75, 1.25))
            anchor = (extent[0] * 0.72 * cos(turn), extent[1] * 0.72 * sin(turn))
            depth = 2 * i * int(rng.random() < 0.4) - i + 1  # a third in front of the main object, the rest behind
        waves = place(rng, radius, anchor, extent, swing=0.13 if i == 0 else 0.10)
        things.append(Thing(colours[i], shapes[i], textures[i], depth=depth, **waves))
    return Scene(key, split, frames, height, width, tuple(things[:count]), background, style,
                 (float(pan[0]), float(pan[1])))


def with_main(scene: Scene, **changes) -> Scene:
    """`scene` with fields of its main object replaced; motion and everything else stay."""
    return replace(scene, things=(replace(scene.main, **changes), *scene.things[1:]))


def slowed(scene: Scene, factor: float) -> Scene:
    """`scene` at 1 / `factor` of its speed, from the same first frame."""
    def slow(wave: Wave) -> Wave:
        return replace(wave, period=wave.period * factor)

    things = [replace(thing, x=slow(thing.x), y=slow(thing.y), radius=slow(thing.radius), angle=slow(thing.angle))
              for thing in scene.things]
    return replace(scene, things=tuple(things), pan=(scene.pan[0] / factor, scene.pan[1] / factor))
