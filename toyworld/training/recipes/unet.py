"""The text-to-image U-Net and its text encoder, trained together on cached mean latents of stills.

    z_t = sqrt(abar_t) z + sqrt(1 - abar_t) e,   loss = mean  w(t) m(x) (e_hat(z_t, t, text) - e)^2
    w(t) = min(SNR_t, 5) / SNR_t  clamp(1 / SNR_t, 1, 25)^(1/2)
    m(x) = 1 + 4 [x near an object], normalised to mean 1  (objects fill an eighth of the frame, and carry its words)

The first factor of w is Min-SNR-5 (Hang et al. 2023, for epsilon prediction). The second lifts the noisy steps: in
latents of 16x16, what a thing is is settled where SNR < 1, and there an error of the picture counts only SNR times in
epsilon. For the same reason t = 999 u^0.75 leans to the noisy side. SD's scaled-linear betas; 10 % of captions dropped
for classifier-free guidance.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from ... import models
from ...world.rendering import render_frame
from ..data import CACHE, CHUNK, chunk_paths, render_chunk, still
from ..loop import Run, publish, quiet_residuals

SEED = 37
SCALE = 0.18215
DROP = 0.1


def alphas_cumprod() -> torch.Tensor:
    """abar_t [1000] of SD's schedule."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0).float()


def near_objects(index: int, side: int = 16) -> np.ndarray:
    """Where objects are, or are a latent pixel away, in still `index`; bool [side, side]."""
    scene, frame = still(index, "train")
    masks = render_frame(replace(scene, height=side, width=side, background="gray"), frame)[1].max(0)
    return F.max_pool2d(torch.from_numpy(masks)[None, None], 3, 1, 1)[0, 0].numpy() > 0.2


def encoder_digest(vae) -> str:
    """Twelve hex digits that name the encoder (refining the decoder leaves latents valid)."""
    digest = hashlib.sha256()
    for module in (vae.encoder, vae.quant_conv):
        for key, value in sorted(module.state_dict().items()):
            digest.update(key.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


@torch.no_grad()
def latent_chunk(vae, number: int) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Scaled mean latents [CHUNK,4,16,16] fp16, object neighbourhoods bool [CHUNK,16,16], captions; cached on disk.

    The cache is named after the encoder's digest, so another autoencoder never meets these latents.
    """
    render_chunk(number)
    images_path, captions_path = chunk_paths(number, "train", 128)
    path = CACHE / f"latents_{encoder_digest(vae)}_{number:03d}.pt"
    if not path.exists():
        images, latents = np.load(images_path, mmap_mode="r"), []
        for start in range(0, CHUNK, 8):
            x = torch.from_numpy(images[start:start + 8].copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
            latents.append((vae.encode(x).latent_dist.mean * SCALE).half())
        near = torch.from_numpy(np.stack([near_objects(number * CHUNK + i) for i in range(CHUNK)]))
        torch.save({"latents": torch.cat(latents), "near": near}, path)
    stored = torch.load(path, weights_only=True)
    return stored["latents"], stored["near"], json.loads(captions_path.read_text())


def dataset(chunks: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latents, neighbourhoods and token ids [N,77] of the first `chunks` chunks."""
    vae = models.load_vae()
    parts = [latent_chunk(vae, number) for number in tqdm(range(chunks), desc="latents")]
    ids = models.tokenize([caption for part in parts for caption in part[2]])
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]), ids


def draw_timesteps(count: int, generator: torch.Generator) -> torch.Tensor:
    """t = 999 u^0.75, int64 [count]."""
    return (1000 * torch.rand((count,), generator=generator) ** 0.75).long().clamp(max=999)


def level_weight(abar: torch.Tensor) -> torch.Tensor:
    """w(t) above, of abar_t [B]."""
    snr = abar / (1 - abar)
    return snr.clamp(max=5) / snr * (1 / snr).clamp(1, 25).sqrt()


def loss_of(unet, text_encoder, z, near, ids, abar, generator) -> torch.Tensor:
    """The weighted loss above; z [B,4,h,w] scaled latents."""
    t = draw_timesteps(len(z), generator)
    z = z.contiguous(memory_format=torch.channels_last)
    noise = torch.randn(z.shape, generator=generator).contiguous(memory_format=torch.channels_last)
    a = abar[t][:, None, None, None]
    focus = 1 + 4 * near.float()
    focus = focus / focus.mean((1, 2), keepdim=True)
    context = text_encoder(ids).last_hidden_state
    guess = unet(a.sqrt() * z + (1 - a).sqrt() * noise, t, context).sample
    return (((guess - noise) ** 2).mean(1) * focus).mean((1, 2)).mul(level_weight(abar[t])).mean()


def train(steps: int = 2500, batch: int = 32, peak: float = 3e-3, chunks: int = 6, publish_every: int = 300) -> None:
    """Train both, publishing the running average now and then."""
    torch.manual_seed(SEED)
    unet, text_encoder = models.build_unet(), models.build_text_encoder()
    quiet_residuals(unet)
    unet.to(memory_format=torch.channels_last)  # a fifth faster on two cores
    latents, near, ids = dataset(chunks)
    empty, abar = models.tokenize([""])[0], alphas_cumprod()
    run = Run("unet", {"unet": unet, "text_encoder": text_encoder}, steps, peak, SEED, ema=0.998, warmup=60)
    unet.train(), text_encoder.train()
    for _ in tqdm(range(run.step, steps), initial=run.step, total=steps, mininterval=20):
        rows = torch.randint(0, len(latents), (batch,), generator=run.generator)
        words = torch.where(torch.rand((batch, 1), generator=run.generator) < DROP, empty, ids[rows])
        run.advance(loss_of(unet, text_encoder, latents[rows].float(), near[rows], words, abar, run.generator))
        if run.step % publish_every == 0 or run.step == steps:
            release(run, batch)


def release(run: Run, batch: int) -> None:
    """Publish the running average of both models."""
    run.write_curve()
    for name, config in (("unet", models.UNET_CONFIG), ("text_encoder", models.TEXT_CONFIG)):
        publish(name, run.ema.average[name], {
            "recipe": "toyworld/training/recipes/unet.py", "seed": SEED, "steps": run.step, "planned_steps": run.steps,
            "batch": batch, "minutes": round(run.minutes, 1),
            "parameters": sum(p.numel() for p in run.modules[name].parameters()), "architecture": config,
            "scheduler": models.SCHEDULER_CONFIG, "encoder": encoder_digest(models.load_vae())})
