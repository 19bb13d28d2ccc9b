"""Scene -> clip: frames, visible masks, exact flow, caption. Pure numpy, a few milliseconds a frame at 128."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .backgrounds import background
from .flow import forward_flow
from .geometry import to_local, world_grid
from .grammar import COLOURS
from .scene import Scene, Thing
from .shapes import SDF, Array, detail, pattern, step

if TYPE_CHECKING:
    import torch

#: width of an anti-aliased edge, pixels
EDGE = 1.5


@dataclass(frozen=True)
class Clip:
    """A rendered scene.

    frames [F,H,W,3] 0..1; masks [O,F,H,W] visible soft masks, object 0 is the main one; flow [F-1,H,W,2] pixels
    (x, y) from frame t to t+1; flow_valid [F-1,H,W] bool: the point is seen in both frames.
    """

    frames: torch.Tensor
    masks: torch.Tensor
    flow: torch.Tensor
    flow_valid: torch.Tensor
    scene: Scene

    @property
    def caption(self) -> str:
        return self.scene.caption


def second_tone(colour: str) -> Array:
    """The lighter (of light colours: darker) tone of textures and two-tone sprites."""
    rgb = np.asarray(COLOURS[colour], np.float32)
    if colour in ("white", "yellow"):
        return rgb * (0.75 if colour == "white" else 0.62)
    return rgb + (0.28 if colour == "black" else 0.5) * (1 - rgb)  # not the gray background's gray


def paint(thing: Thing, frame: float, x: Array, y: Array, pixel: float) -> tuple[Array, Array]:
    """Colour [H,W,3] and coverage [H,W] of one object; `pixel` is a pixel's side in world units."""
    u, v, radius = to_local(thing, frame, x, y)
    width = EDGE * pixel / radius
    colour = np.broadcast_to(np.asarray(COLOURS[thing.colour], np.float32), (*x.shape, 3))
    for layer in (pattern(thing.texture, u, v, width), detail(thing.shape, u, v, width)):
        if layer is not None:
            colour = colour + layer[..., None] * (second_tone(thing.colour) - colour)
    return colour, step(SDF[thing.shape](u, v), width)


def stylise(image: Array, style: str) -> Array:
    """The style's colour map, pixel by pixel, [...,3] -> [...,3]."""
    luminance = image @ np.asarray([0.299, 0.587, 0.114], np.float32)
    if style == "bw":
        return np.repeat(luminance[..., None], 3, axis=-1)
    if style == "sunset":
        return image * np.asarray([0.92, 0.66, 0.46], np.float32) + np.asarray([0.10, 0.03, 0.0], np.float32)
    if style == "moonlight":
        muted = 0.65 * image + 0.35 * luminance[..., None]
        return muted * np.asarray([0.46, 0.56, 0.80], np.float32) + np.asarray([0.0, 0.01, 0.06], np.float32)
    if style == "pastel":
        return 0.5 * image + 0.47
    return image


def render_frame(scene: Scene, frame: float) -> tuple[Array, Array]:
    """One frame [H,W,3] in 0..1 and its visible masks [O,H,W]."""
    x, y = world_grid(scene)
    pixel = 1 / min(scene.height, scene.width)
    shifted = x + np.float32(scene.pan[0] * frame), y + np.float32(scene.pan[1] * frame)
    image = background(scene.background, scene.key, scene.split != "train", *shifted)
    masks = np.zeros((len(scene.things), *x.shape), np.float32)
    for index in sorted(range(len(scene.things)), key=lambda i: scene.things[i].depth):
        colour, cover = paint(scene.things[index], frame, x, y, pixel)
        image = image * (1 - cover[..., None]) + colour * cover[..., None]  # exact where cover is 0 or 1
        masks *= 1 - cover
        masks[index] = cover
    return np.clip(stylise(image.astype(np.float32), scene.style), 0, 1), masks


def render(scene: Scene) -> Clip:
    """Render all of `scene`, flow included."""
    import torch

    parts = [render_frame(scene, frame) for frame in range(scene.frames)]
    flow, valid = forward_flow(scene)
    return Clip(
        torch.from_numpy(np.stack([p[0] for p in parts])), torch.from_numpy(np.stack([p[1] for p in parts], axis=1)),
        torch.from_numpy(flow), torch.from_numpy(valid), scene)


def render_still(scene: Scene, frame: int = 0) -> Array:
    """One frame as uint8 [H,W,3]: what the trainings store."""
    return np.round(render_frame(scene, frame)[0] * 255).astype(np.uint8)
