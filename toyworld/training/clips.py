"""Clips for the video model's trainings: rendered in chunks, kept as uint8 under the ignored .cache folder."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor

import numpy as np

from ..world.clips import FRAMES, scene_of
from ..world.rendering import render_still
from .data import CACHE

#: clips in a chunk
CHUNK = 100


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
