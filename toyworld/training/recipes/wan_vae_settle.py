"""The video autoencoder's second stage: the decoder alone, where things move.

    loss = sum_x w(x) ((x_hat - x)^2 + 0.1 |x_hat - x|) / sum_x w(x),   w = 1 + FOCUS m(x)

with m = 1 within a few pixels of what changes during the clip. Outlines of moving things are a few percent of the
pixels and all that tells a shape. Half of the clips are slowed as the video model's are. The encoder stays as it was
published, so that cached latents and the video model that learned on them remain valid.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from ... import models
from ...models import wan, wan_vae
from ...world.clips import FRAMES, slow_scene
from ...world.rendering import render_still
from ..clips import clip_chunk
from ..data import CACHE
from ..loop import Run, add_bars, publish
from .wan_vae import PLAIN, clip_crops, measure, own_vae

SEED, FOCUS, SLOW = 47, 4.0, 400
#: what the encoder's names begin with
ENCODER = ("encoder.", "conv1.")


def slow_clips(count: int = SLOW) -> np.ndarray:
    """The video model's first training clips, uint8 [count,13,H,W,3]; kept on disk."""
    path = CACHE / f"clips_slow_{count}.npy"
    if not path.exists():
        scenes = (slow_scene(index) for index in tqdm(range(count), desc="clips", mininterval=20))
        clips = np.stack([np.stack([render_still(scene, frame) for frame in range(FRAMES)]) for scene in scenes])
        beside = path.with_suffix(".part.npy")
        np.save(beside, clips)
        beside.replace(path)
    return np.load(path, mmap_mode="r")


def changing(x: torch.Tensor) -> torch.Tensor:
    """1 near pixels that change during the clip, [B,1,1,H,W], of clips [B,3,T,H,W] in -1..1."""
    moved = ((x.amax(2) - x.amin(2)).amax(1, keepdim=True) > 0.15).float()
    return F.max_pool2d(moved, 7, 1, 3)[:, :, None]


def loss_of(vae: wan_vae.WanVAE, x: torch.Tensor) -> torch.Tensor:
    """The loss above, of clips [B,3,T,H,W] in -1..1."""
    with torch.no_grad():
        mean, _ = vae.moments(x)
    difference = vae.decode(mean) - x
    weight = 1 + FOCUS * changing(x)
    return (weight / weight.mean() * (difference.square() + 0.1 * difference.abs())).mean()


def train(steps: int = 1600, peak: float = 2e-3) -> None:
    """Train and publish: three pieces of nine frames a step, every fourth step one whole frame's worth of them."""
    torch.manual_seed(SEED)
    vae = own_vae().train()
    for name, parameter in vae.named_parameters():
        parameter.requires_grad_(not name.startswith(ENCODER))
    clips = [clip_chunk(0), clip_chunk(1), slow_clips(), slow_clips()]
    run = Run("wan_vae_settle", {"vae": vae}, steps, peak, SEED, ema=0.99, weight_decay=1e-3, warmup=40, plain=PLAIN)
    for _ in tqdm(range(run.step, steps), initial=run.step, total=steps, mininterval=30):
        sizes = (1, 9, 128) if run.step % 4 == 3 else (3, 9, 64)
        run.advance(loss_of(vae, clip_crops(clips, run.generator, *sizes)))
    release(run)


def release(run: Run) -> dict:
    """Publish the running average's decoder beside the encoder as it was, with its bars."""
    run.write_curve()
    state, before = wan_vae.whole_kernels(run.ema.average["vae"]), models.config_of("wan_vae")
    state |= {key: value for key, value in models.state_of("wan_vae").items() if key.startswith(ENCODER)}
    publish("wan_vae", state, {
        "recipe": "toyworld/training/recipes/wan_vae.py, wan_vae_settle.py", "seed": SEED, "steps": run.step,
        "planned_steps": run.steps, "minutes": round(run.minutes, 1), "parameters": before["parameters"],
        "architecture": wan.VAE_CONFIG})
    bars = measure(own_vae())
    add_bars("wan_vae", bars)
    return bars
