"""The video model's clips: clip i of a split is scene i, 13 frames from its beginning."""

from __future__ import annotations

from .scene import Scene, sample_scene, slowed

FRAMES = 13
#: The video model's clips show the toy world at this part of its speed, that is at six times its frame rate. At full
#: speed a thing turns and travels by its own size in 13 frames, in a direction that no first frame tells: a model of
#: this size then answers with the mean of all directions, a blob. At a third, half of the things are blobs at the end.
SLOWER = 6


def scene_of(index: int, split: str = "train", size: int = 128, **overrides) -> Scene:
    """The scene of clip `index`; `overrides` as in `sample_scene`."""
    return sample_scene(index, split, frames=FRAMES, size=size, **overrides)


def slow_scene(index: int, split: str = "train", frames: int = FRAMES, size: int = 128, slower: float = SLOWER,
               **overrides) -> Scene:
    """The scene of the video model's clip `index`."""
    return slowed(sample_scene(index, split, frames=frames, size=size, **overrides), slower)
