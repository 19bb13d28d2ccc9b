"""Clips for the video model's trainings: rendered in chunks, kept as uint8 under the ignored .cache folder.

Clip i of a split is scene i, 13 frames from its beginning.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor

import numpy as np

from .data import CACHE
from .rendering import render_still
from .scene import Scene, sample_scene, slowed

FRAMES = 13
#: The video model's clips show the toy world at this part of its speed, that is at six times its frame rate. At full
#: speed a thing turns and travels by its own size in 13 frames, in a direction that no first frame tells: a model of
#: this size then answers with the mean of all directions, a blob. At a third, half of the things are blobs at the end.
SLOWER = 6
#: clips in a chunk
CHUNK = 100


def scene_of(index: int, split: str = "train", size: int = 128, **overrides) -> Scene:
    """The scene of clip `index`; `overrides` as in `sample_scene`."""
    return sample_scene(index, split, frames=FRAMES, size=size, **overrides)


def slow_scene(index: int, split: str = "train", frames: int = FRAMES, size: int = 128, slower: float = SLOWER,
               **overrides) -> Scene:
    """The scene of the video model's clip `index`."""
    return slowed(sample_scene(index, split, frames=frames, size=size, **overrides), slower)


def render_clip(job: tuple[int, str, int]) -> np.ndarray:
    """uint8 [13,H,W,3] of (index, split, size)."""
    scene = scene_of(*job)
    return np.stack([render_still(scene, frame) for frame in range(FRAMES)])


def clip_chunk(number: int, split: str = "train", size: int = 128, workers: int = 1, keep: bool = True) -> np.ndarray:
    """Clips CHUNK number ... CHUNK (number + 1) - 1, uint8 [CHUNK,13,H,W,3]; `keep` stores them on disk."""
    path = CACHE / f"clips_{split}_{size}_{number:03d}.npy"
    if path.exists():
        return np.load(path, mmap_mode="r")
    jobs = [(index, split, size) for index in range(number * CHUNK, (number + 1) * CHUNK)]
    if workers > 1:
        with ProcessPoolExecutor(workers) as pool:
            clips = np.stack(list(pool.map(render_clip, jobs, chunksize=5)))
    else:
        clips = np.stack([render_clip(job) for job in jobs])
    if keep:
        CACHE.mkdir(exist_ok=True)
        beside = path.with_suffix(".part.npy")
        np.save(beside, clips)
        beside.replace(path)
    return clips
