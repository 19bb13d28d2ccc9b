"""Stills for the trainings: rendered once by all cores, kept as uint8 chunks under the ignored .cache folder.

Still i of a split is a random frame of scene i, so chunks are the same whoever renders them, and never overlap.
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from ..world.rendering import render_still
from ..world.scene import Scene, sample_scene

CACHE = Path(__file__).parents[1] / ".cache"
CHUNK = 2000


def still(index: int, split: str, size: int = 128) -> tuple[Scene, int]:
    """Scene and frame number of still `index`."""
    return sample_scene(index, split, frames=32, size=size), index * 7 % 32


def render_row(job: tuple[int, str, int]) -> tuple[np.ndarray, str]:
    index, split, size = job
    scene, frame = still(index, split, size)
    return render_still(scene, frame), scene.caption


def chunk_paths(number: int, split: str, size: int) -> tuple[Path, Path]:
    stem = f"stills_{split}_{size}_{number:03d}"
    return CACHE / f"{stem}.npy", CACHE / f"{stem}.json"


def render_chunk(number: int, split: str = "train", size: int = 128, workers: int = 2) -> None:
    """Render stills CHUNK number ... CHUNK (number + 1) - 1 unless their files exist."""
    images_path, captions_path = chunk_paths(number, split, size)
    if captions_path.exists():
        return
    CACHE.mkdir(exist_ok=True)
    jobs = [(i, split, size) for i in range(number * CHUNK, (number + 1) * CHUNK)]
    with ProcessPoolExecutor(workers) as pool:
        rows = list(pool.map(render_row, jobs, chunksize=50))
    np.save(images_path, np.stack([r[0] for r in rows]))
    captions_path.write_text(json.dumps([r[1] for r in rows]))  # last: its presence says the chunk is whole


def stills(count: int, split: str = "train", size: int = 128, workers: int = 2) -> tuple[list[np.ndarray], list[str]]:
    """The first `count` stills (rounded up to chunks): memory-mapped chunks [CHUNK,H,W,3] and their captions."""
    images, captions = [], []
    for number in range(-(-count // CHUNK)):
        render_chunk(number, split, size, workers)
        images_path, captions_path = chunk_paths(number, split, size)
        images.append(np.load(images_path, mmap_mode="r"))
        captions += json.loads(captions_path.read_text())
    return images, captions


def held_out(count: int, photo: bool | None = None, size: int = 128, offset: int = 0):
    """Held-out stills: float32 tensor [N,H,W,3] in 0..1, scenes, frame numbers. photo=None takes them as they come."""
    import torch

    overrides = {} if photo is None else {"photo": photo}
    images, scenes, frames = [], [], []
    for i in range(offset, offset + count):
        scene, frame = sample_scene(i, "test", frames=32, size=size, **overrides), i * 7 % 32
        images.append(render_still(scene, frame))
        scenes.append(scene)
        frames.append(frame)
    return torch.from_numpy(np.stack(images)).float() / 255, scenes, frames
