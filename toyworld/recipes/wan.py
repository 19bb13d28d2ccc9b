"""The image-to-video transformer: flow matching on cached latents of clips, given their first frame.

    z_s = (1 - s) z + s e,   loss = mean  m(x) (v(z_s, s, mask, y, text) - (e - z))^2,   s = 3 u / (1 + 2 u)
    m(x) = 1 + 4 [x near an object], normalised to mean 1  (objects fill an eighth of the frame)

y is one encoding of the whole conditioning clip: the first frame, then gray. The mask says which pixels of y to keep:
the first frame's, and never a part of a frame, so that a spatial mask is as new to this model as to the real ones.
A tenth of the captions is dropped for classifier-free guidance. The text encoder is the toy U-Net's, frozen.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from .. import models, wan, wan_vae
from ..clips import CHUNK, clip_chunk, scene_of
from ..data import CACHE
from ..rendering import render_frame
from ..training import Run, publish, quiet_residuals, save_atomically
from .wan_vae import own_vae

SEED = 53
DROP = 0.1
#: what suits AdamW more than Muon
PLAIN = ("patch_embedding", "proj_out", "scale_shift_table", "condition_embedder")
#: one more chunk of clips joins after so many steps, so that training need not wait for all of them
GROW = 100


def first_frame_mask(frames: int, height: int, width: int) -> torch.Tensor:
    """Wan's mask [1,4,T',h,w] that keeps the first frame: a channel for each frame that a latent stands for."""
    mask = torch.zeros(1, 4, frames, height, width)
    mask[:, :, 0] = 1
    return mask


@torch.no_grad()
def encode(vae: wan_vae.WanVAE, pages: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised mean latents [B,16,4,16,16] of clips uint8 [B,13,H,W,3], and of their conditioning clips."""
    mean, deviation = wan_vae.channels(wan_vae.MEAN), wan_vae.channels(wan_vae.STD)
    gray = vae.encoder.within(torch.zeros(1, 3, 1, *pages.shape[2:4]))
    latents, conditions = [], []
    for page in pages:
        frames = torch.from_numpy(page.copy()).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        features = torch.cat([vae.encoder.within(frame) for frame in frames.split(1, dim=2)], 2)
        held = torch.cat([features[:, :, :1], gray.expand(-1, -1, features.shape[2] - 1, -1, -1)], 2)
        for kept, found in ((latents, features), (conditions, held)):
            z = vae.conv1(vae.encoder.across(found))[:, :wan_vae.LATENTS]
            kept.append((z - mean) / deviation)
    return torch.cat(latents), torch.cat(conditions)


def near_objects(index: int, side: int = 16) -> np.ndarray:
    """Where objects are, or are a latent pixel away, in any frame of a latent; bool [4,side,side]."""
    scene = replace(scene_of(index), height=side, width=side, background="gray")
    masks = np.stack([render_frame(scene, frame)[1].max(0) for frame in range(scene.frames)])
    near = F.max_pool2d(torch.from_numpy(masks)[:, None], 3, 1, 1)[:, 0] > 0.2
    return torch.stack([near[:1].any(0), *(part.any(0) for part in near[1:].split(4))]).numpy()


@torch.no_grad()
def latent_chunk(number: int, stamp: str) -> dict[str, torch.Tensor]:
    """Latents, conditions [CHUNK,16,4,16,16] and captions' embeddings [CHUNK,77,96], fp16, and neighbourhoods of
    objects, bool [CHUNK,4,16,16]; cached on disk under the encoder's `stamp`, so that no other encoder meets them."""
    path = CACHE / f"clip_latents_{stamp}_{number:03d}.pt"
    if not path.exists():
        indices = range(number * CHUNK, (number + 1) * CHUNK)
        latents, conditions = encode(own_vae(), clip_chunk(number, keep=False))
        ids = models.tokenize([scene_of(index).caption for index in indices])
        text = models.load_text_encoder()(ids).last_hidden_state
        near = torch.from_numpy(np.stack([near_objects(index) for index in indices]))
        save_atomically({"latents": latents.half(), "conditions": conditions.half(), "text": text.half(),
                         "near": near}, path)
    return torch.load(path, weights_only=True)


def encoder_stamp() -> str:
    """Twelve hex digits that name the published encoder (refining the decoder leaves latents valid)."""
    import hashlib

    digest = hashlib.sha256()
    for key, value in sorted(models.state_of("wan_vae").items()):
        if key.startswith(("encoder.", "conv1.")):
            digest.update(key.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def prepare(chunks: int, start: int = 0) -> None:
    """Encode ahead of a training that runs elsewhere."""
    stamp = encoder_stamp()
    for number in tqdm(range(start, chunks), desc="latents"):
        latent_chunk(number, stamp)


def draw_sigmas(count: int, generator: torch.Generator) -> torch.Tensor:
    """s = 3 u / (1 + 2 u), [count]."""
    u = torch.rand((count,), generator=generator)
    return wan.SHIFT * u / (1 + (wan.SHIFT - 1) * u)


def loss_of(network, batch: dict[str, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
    """The weighted loss above; `batch` as `latent_chunk` gives it, float32."""
    z = batch["latents"]
    sigma, noise = draw_sigmas(len(z), generator), torch.randn(z.shape, generator=generator)
    s = sigma[:, None, None, None, None]
    mask = first_frame_mask(*z.shape[2:]).expand(len(z), -1, -1, -1, -1)
    seen = torch.cat([(1 - s) * z + s * noise, mask, batch["conditions"]], 1)
    guess = network(seen, 1000 * sigma, batch["text"]).sample
    focus = 1 + 4 * batch["near"].float()
    focus = focus / focus.mean((1, 2, 3), keepdim=True)
    return ((guess - (noise - z)).square().mean(1) * focus).mean()


def draw(chunks: list, count: int, empty: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """A batch of `count` random clips, a tenth of them without their captions."""
    rows = torch.randint(0, CHUNK * len(chunks), (count,), generator=generator).tolist()
    batch = {key: torch.stack([chunks[row // CHUNK][key][row % CHUNK] for row in rows]).float() for key in chunks[0]}
    silent = torch.rand((count, 1, 1), generator=generator) < DROP
    return {**batch, "text": torch.where(silent, empty, batch["text"])}


@torch.no_grad()
def silence() -> torch.Tensor:
    """The empty caption's embedding [1,77,96]."""
    return models.load_text_encoder()(models.tokenize([""])).last_hidden_state


def train(steps: int = 12000, batch: int = 8, peak: float = 2.5e-3, chunks: int = 40, publish_every: int = 250,
          compiled: bool = False) -> None:
    """Train, publishing the running average now and then.

    compiled: blocks through TorchInductor, which needs a C++ compiler and is a sixth faster.
    """
    torch.manual_seed(SEED)
    network = wan.build()
    quiet_residuals(network)
    run = Run("wan", {"wan": network}, steps, peak, SEED, ema=0.998, warmup=60, plain=PLAIN)
    if compiled:
        for block in network.blocks:
            block.compile()
    stamp, empty, data = encoder_stamp(), silence(), []
    for _ in tqdm(range(run.step, steps), initial=run.step, total=steps, mininterval=30):
        while len(data) < min(chunks, 3 + run.step // GROW):
            data.append(latent_chunk(len(data), stamp))
        run.advance(loss_of(network, draw(data, batch, empty, run.generator), run.generator))
        if run.step % publish_every == 0 or run.step == steps:
            release(run, batch, stamp)


def release(run: Run, batch: int, stamp: str) -> None:
    """Publish the running average."""
    run.write_curve()
    publish("wan", run.ema.average["wan"], {
        "recipe": "toyworld/recipes/wan.py", "seed": SEED, "steps": run.step, "planned_steps": run.steps,
        "batch": batch, "minutes": round(run.minutes, 1),
        "parameters": sum(p.numel() for p in run.modules["wan"].parameters()), "architecture": wan.CONFIG,
        "shift": wan.SHIFT, "encoder": stamp, "text_encoder_sha256": models.config_of("text_encoder")["sha256"]})
