"""The video autoencoder: stills first, then clips, then the decoder alone on whole frames.

    loss = mean (x_hat - x)^2 + 0.1 mean |x_hat - x| + 1e-6 KL        pixels in [-1, 1]

Stills teach all that one frame needs at a fifth of a clip's cost. From `frozen` on, the encoder is its own running
average and stays so: latents that were cached then remain valid while the decoder is still being refined, without
posterior noise. `wan_vae.normalise` folds one shift per channel and one scale for all into the file.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F
from tqdm import tqdm

from ... import models
from ...models import wan, wan_vae
from ...world.clips import scene_of
from ..clips import clip_chunk
from ..data import stills
from ..loop import Run, add_bars, publish
from .vae import crops

SEED = 43
#: these kernels have few directions: AdamW's update suits them
PLAIN = ("encoder.conv1.", "decoder.head.2.")
CHUNKS = 3


def clip_crops(chunks: list, generator: torch.Generator, batch: int, frames: int, side: int) -> torch.Tensor:
    """Random pieces [B,3,frames,side,side] in [-1,1] of clips, mirrored half the time, reversed half the time."""
    picks = []
    for _ in range(batch):
        chunk, row, first, top, left, flips = torch.randint(0, 1 << 30, (6,), generator=generator).tolist()
        clips = chunks[chunk % len(chunks)]
        length, height, width = clips.shape[1:4]
        first, top, left = first % (length - frames + 1), top % (height - side + 1), left % (width - side + 1)
        piece = clips[row % len(clips), first:first + frames, top:top + side, left:left + side]
        piece = torch.from_numpy(piece.copy())
        picks.append(piece.flip([axis for axis, yes in ((0, flips & 1), (2, flips & 2)) if yes]))
    return torch.stack(picks).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def loss_of(vae: wan_vae.WanVAE, x: torch.Tensor, generator: torch.Generator, frozen: bool) -> torch.Tensor:
    with torch.set_grad_enabled(not frozen):
        mean, log_variance = vae.moments(x)
    if frozen:
        guess = vae.decode(mean)
        return F.mse_loss(guess, x) + 0.1 * F.l1_loss(guess, x)
    log_variance = log_variance.clamp(-30, 20)
    noise = torch.randn(mean.shape, generator=generator)
    guess = vae.decode(mean + torch.exp(0.5 * log_variance) * noise)
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum((1, 3, 4)).mean()
    return F.mse_loss(guess, x) + 0.1 * F.l1_loss(guess, x) + 1e-6 * kl


def freeze_encoder(run: Run) -> None:
    """The encoder becomes its running average and trains no more."""
    vae, average = run.modules["vae"], run.ema.average["vae"]
    for name, part in (("encoder.", vae.encoder), ("conv1.", vae.conv1)):
        part.load_state_dict({k.removeprefix(name): v for k, v in average.items() if k.startswith(name)})
        part.requires_grad_(False)


def batch_of(step: int, steps: int, first: int, frozen: int, images: list, clips: list,
             generator: torch.Generator) -> torch.Tensor:
    """Stills in pieces, then 5 frames in pieces, and of the last tenth every other step whole frames."""
    if step < first:
        return crops(images, generator, 12, 64).unsqueeze(2)
    if step >= 0.9 * steps and step % 2:
        return clip_crops(clips, generator, 1, 9, 128)
    return clip_crops(clips, generator, *((4, 5, 64) if step < frozen else (3, 9, 64)))


def train(steps: int = 1800, peak: float = 4e-3, first: int = 300, frozen: int = 800, publish_every: int = 500
          ) -> None:
    """Train and publish. first: steps on stills; frozen: the step at which the encoder stops."""
    torch.manual_seed(SEED)
    vae = wan_vae.WanVAE()
    with torch.no_grad():
        vae.conv1.bias[wan_vae.LATENTS:] = -8  # start with little posterior noise
    images, _ = stills(8000)
    clips = [clip_chunk(number) for number in range(CHUNKS)]
    run = Run("wan_vae", {"vae": vae}, steps, peak, SEED, ema=0.995, weight_decay=1e-3, warmup=40, plain=PLAIN)
    for _ in tqdm(range(run.step, steps), initial=run.step, total=steps, mininterval=30):
        if run.step >= frozen and vae.conv1.weight.requires_grad:
            freeze_encoder(run)
        x = batch_of(run.step, steps, first, frozen, images, clips, run.generator)
        run.advance(loss_of(vae, x, run.generator, run.step >= frozen))
        if run.step in (first, frozen, steps) or run.step % publish_every == 0:
            tqdm.write(f"step {run.step}: {release(run, 32 if run.step == steps else 3)}")


def release(run: Run, count: int) -> dict:
    """Publish the running average, normalised and rounded to fp16, with its bars from `count` held-out clips."""
    vae = wan_vae.WanVAE().eval()
    vae.load_state_dict(run.ema.average["vae"])
    wan_vae.normalise(vae, *spread(vae))
    run.write_curve()
    state = wan_vae.whole_kernels(vae.state_dict())
    publish("wan_vae", state, {
        "recipe": "toyworld/training/recipes/wan_vae.py", "seed": SEED, "steps": run.step, "planned_steps": run.steps,
        "minutes": round(run.minutes, 1), "parameters": sum(value.numel() for value in state.values()),
        "architecture": wan.VAE_CONFIG})
    bars = measure(own_vae(), count)
    add_bars("wan_vae", bars)
    return bars


def own_vae() -> wan_vae.WanVAE:
    """The published autoencoder in the form that trains: several times as fast as the hosts'."""
    vae = wan_vae.WanVAE()
    vae.load_state_dict({k: v.float() for k, v in wan_vae.own_kernels(models.state_of("wan_vae")).items()})
    return vae.eval().requires_grad_(False)


@torch.no_grad()
def spread(vae: wan_vae.WanVAE, count: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean per channel [16], and one deviation for all, of the latents of the first training clips."""
    pages = torch.from_numpy(clip_chunk(0)[:count].copy()).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    latents = torch.cat([vae.moments(clip)[0] for clip in pages.split(1)])
    shift = latents.mean((0, 2, 3, 4))
    return shift, (latents - shift[:, None, None, None]).std()


@torch.no_grad()
def psnr(vae: wan_vae.WanVAE, clips: torch.Tensor) -> torch.Tensor:
    """PSNR [N,T] in dB, frame by frame, of reconstructions of clips [N,T,H,W,3] in 0..1, from mean latents."""
    values = []
    for clip in (clips.permute(0, 4, 1, 2, 3) * 2 - 1).split(1):
        guess = vae.decode(vae.moments(clip)[0]).clamp(-1, 1)
        values.append(-10 * torch.log10(((guess - clip) / 2).pow(2).mean((1, 3, 4))))
    return torch.cat(values)


def measure(vae: wan_vae.WanVAE, count: int = 32) -> dict:
    """Held-out PSNR: clips, with and without photo backgrounds, all frames and the first."""
    from ...world.rendering import render_still

    result: dict[str, float] = {}
    for word, photo in (("plain", False), ("photo", True)):
        clips = []
        for index in range(count):
            scene = scene_of(index, "test", photo=photo)
            clips.append(torch.stack([torch.from_numpy(render_still(scene, f)) for f in range(scene.frames)]))
        values = psnr(vae, torch.stack(clips).float() / 255)
        result |= {f"psnr_{word}": round(values.mean().item(), 2),
                   f"psnr_{word}_first_frame": round(values[:, 0].mean().item(), 2),
                   f"psnr_{word}_worst_clip": round(values.mean(1).min().item(), 2)}
    return {"clips": 2 * count, **result}
