"""The autoencoder: 64-pixel crops first, whole frames last; squared error leads, the KL term is a whisper.

    loss = mean (x_hat - x)^2 + 0.1 mean |x_hat - x| + 1e-6 KL        pixels in [-1, 1]

Training samples the posterior. Afterwards `normalise` folds one shift per channel and one scale into quant_conv and
post_quant_conv, so that mean latents x 0.18215 have zero mean and unit variance: SD1.x's stock format then fits.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F
from tqdm import tqdm

from ... import models
from ..data import held_out, stills
from ..loop import Run, add_bars, publish, quiet_residuals

SEED = 11
SCALE = 0.18215


def crops(images: list, generator: torch.Generator, batch: int, side: int) -> torch.Tensor:
    """Random crops [B,3,side,side] in [-1,1], mirrored half the time (a mirrored shape is as good a shape)."""
    picks = []
    for _ in range(batch):
        chunk, row, top, left, mirror = torch.randint(0, 1 << 30, (5,), generator=generator).tolist()
        pages = images[chunk % len(images)]
        height, width = pages.shape[1:3]
        top, left = top % (height - side + 1), left % (width - side + 1)
        piece = torch.from_numpy(pages[row % len(pages), top:top + side, left:left + side].copy())
        picks.append(piece.flip(1) if mirror % 2 else piece)
    return torch.stack(picks).permute(0, 3, 1, 2).float() / 127.5 - 1


def loss_of(vae, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    moments = vae.quant_conv(vae.encoder(x))
    mean, log_variance = moments.chunk(2, dim=1)
    log_variance = log_variance.clamp(-30, 20)
    noise = torch.randn(mean.shape, generator=generator)
    guess = vae.decoder(vae.post_quant_conv(mean + torch.exp(0.5 * log_variance) * noise))
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum((1, 2, 3)).mean()
    return F.mse_loss(guess, x) + 0.1 * F.l1_loss(guess, x) + 1e-6 * kl


@torch.no_grad()
def normalise(vae, x: torch.Tensor) -> None:
    """Fold shift m [4] and scale s into the 1x1 convolutions: z' = (z - m) / s, with z' x 0.18215 of unit variance.

    x: pictures [B,3,H,W] in [-1,1] that stand for the data.
    """
    mean = torch.cat([vae.encode(part).latent_dist.mean for part in x.split(16)])
    shift = mean.mean((0, 2, 3))
    scale = (mean - shift[:, None, None]).std() * SCALE
    vae.quant_conv.weight[:4] /= scale
    vae.quant_conv.bias[:4] = (vae.quant_conv.bias[:4] - shift) / scale
    vae.quant_conv.bias[4:] -= 2 * torch.log(scale)  # log-variances of the scaled latents
    before = vae.post_quant_conv.weight[:, :, 0, 0].clone()
    vae.post_quant_conv.bias += before @ shift
    vae.post_quant_conv.weight *= scale


@torch.no_grad()
def psnr(vae, frames: torch.Tensor) -> torch.Tensor:
    """PSNR [N] in dB of reconstructions of frames [N,H,W,3] in 0..1, from mean latents."""
    errors = []
    for part in (frames.permute(0, 3, 1, 2) * 2 - 1).split(8):
        guess = vae.decode(vae.encode(part).latent_dist.mean, return_dict=False)[0].clamp(-1, 1)
        errors.append(((guess - part) / 2).pow(2).mean((1, 2, 3)))
    return -10 * torch.log10(torch.cat(errors))


def measure(vae, count: int = 64) -> dict:
    """Held-out PSNR: average over scenes without and with photo backgrounds."""
    return {f"psnr_{word}": round(psnr(vae, held_out(count, photo)[0]).mean().item(), 2)
            for word, photo in (("plain", False), ("photo", True))}


def train(
    steps: int = 2400, batch: int = 8, peak: float = 4e-3, whole: float = 0.1, count: int = 8000
) -> None:
    """Train, normalise, publish. whole: last share of the steps that see 128-pixel frames, a quarter as many."""
    torch.manual_seed(SEED)
    vae = models.build_vae()
    quiet_residuals(vae)
    with torch.no_grad():
        vae.quant_conv.bias[4:] = -8  # start with little posterior noise
    images, _ = stills(count)
    run = Run("vae", {"vae": vae}, steps, peak, SEED, ema=0.995, weight_decay=1e-3, warmup=40)
    for _ in tqdm(range(run.step, steps), initial=run.step, total=steps, mininterval=20):
        full = run.step >= (1 - whole) * steps
        x = crops(images, run.generator, max(batch // 4, 1) if full else batch, 128 if full else 64)
        run.advance(loss_of(vae, x, run.generator))
        if run.step % 750 == 0 or run.step == steps:
            tqdm.write(f"step {run.step}: {release(run, batch, 64 if run.step == steps else 12)}")


def release(run: Run, batch: int, count: int) -> dict:
    """Publish the running average, normalised and rounded to fp16, with its bars from 2 x `count` held-out stills."""
    vae = models.build_vae().eval()
    vae.load_state_dict(run.ema.average["vae"])
    normalise(vae, crops(stills(8000)[0], torch.Generator().manual_seed(SEED + 1), 128, 128))
    run.write_curve()
    publish("vae", vae.state_dict(), {
        "recipe": "toyworld/training/recipes/vae.py", "seed": SEED, "steps": run.step,
        "planned_steps": run.steps, "batch": batch,
        "minutes": round(run.minutes, 1), "parameters": sum(p.numel() for p in vae.parameters()),
        "architecture": models.VAE_CONFIG})
    bars = measure(models.load_vae(), count)
    add_bars("vae", bars)
    return bars
