"""The image-to-video transformer's first stage: flow matching on cached latents of clips, given their first frame.

    z_s = (1 - s) z + s e,   loss = mean  m(x) (v(z_s, s, mask, y, text) - (e - z))^2,   s = 3 u / (1 + 2 u)
    m(x) = 1 + 4 [x near an object], normalised to mean 1  (objects fill an eighth of the frame)

y is one encoding of the whole conditioning clip: the first frame, then gray. The mask says which pixels of y to keep:
the first frame's, and never a part of a frame, so that a spatial mask is as new to this model as to the real ones.
A tenth of the captions is dropped for classifier-free guidance. The text encoder is the toy U-Net's, frozen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from ... import models
from ...models import wan, wan_vae
from ...world.clips import FRAMES, SLOWER, slow_scene
from ...world.rendering import render_frame, render_still
from ...world.scene import Scene
from ..data import CACHE
from ..loop import Run, quiet_residuals, save_atomically
from .wan_vae import own_vae

SEED = 53
DROP = 0.1
#: of this first stage: transformer blocks, and the part of the world's speed that its clips have
BLOCKS, BRISK = 6, 3
#: long clips in a chunk, their frames, and the samples that they give (see `windows`)
SCENES, LONG = 25, 2 * (FRAMES - 1) + 1
CHUNK = 4 * SCENES
#: what suits AdamW more than Muon
PLAIN = ("patch_embedding", "proj_out", "scale_shift_table", "condition_embedder")
#: one more chunk of clips joins after so many steps, so that training need not wait for all of them
GROW = 60


def first_frame_mask(frames: int, height: int, width: int) -> torch.Tensor:
    """Wan's mask [1,4,T',h,w] that keeps the first frame: a channel for each frame that a latent stands for."""
    mask = torch.zeros(1, 4, frames, height, width)
    mask[:, :, 0] = 1
    return mask


def windows(frames: int) -> list[range]:
    """The frames of the samples that one long clip gives: FRAMES of them forwards and backwards from every
    (FRAMES - 1)-th on, so that one first frame goes on in two ways."""
    starts = range(0, frames, FRAMES - 1)
    return [*(range(start, start + FRAMES) for start in starts[:-1]),
            *(range(start, start - FRAMES, -1) for start in starts[1:])]


@torch.no_grad()
def encode(
    encoder: tuple[Callable, Callable], vae: wan_vae.WanVAE, pages: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised mean latents [W,16,4,H/8,W/8] of the W windows of a long clip uint8 [T,H,W,3], and of their
    conditioning clips. `encoder`: the two parts of `vae.encoder` or what stands in for them, (within, across)."""
    within, across = encoder
    frames = torch.from_numpy(pages.copy()).permute(0, 3, 1, 2)[:, :, None].float() / 127.5 - 1
    frames = torch.cat([frames, torch.zeros_like(frames[:1])])
    features = torch.cat([within(part) for part in frames.split(13)])[:, :, 0]  # [T + 1,C,h,w], the last is gray
    chosen = [list(window) for window in windows(len(pages))]
    firsts = sorted({window[0] for window in chosen})
    rows = torch.tensor([*chosen, *([first] + [len(pages)] * (FRAMES - 1) for first in firsts)])
    clips = features[rows].transpose(1, 2)  # [W + firsts,C,13,h,w]; one at a time would take torch's slow road
    z = vae.conv1(across(clips))[:, :wan_vae.LATENTS]
    z = (z - wan_vae.channels(wan_vae.MEAN)) / wan_vae.channels(wan_vae.STD)
    held = dict(zip(firsts, z[len(chosen):]))
    return z[:len(chosen)], torch.stack([held[window[0]] for window in chosen])


def near_objects(scene: Scene, side: int = 16) -> np.ndarray:
    """Where objects are, or are a latent pixel away, in any frame of a latent; bool [W,4,side,side]."""
    small = replace(scene, height=side, width=side, background="gray")
    masks = np.stack([render_frame(small, frame)[1].max(0) for frame in range(scene.frames)])
    near = (F.max_pool2d(torch.from_numpy(masks)[:, None], 3, 1, 1)[:, 0] > 0.2)
    parts = [near[list(window)] for window in windows(scene.frames)]
    return torch.stack([torch.stack([part[0], *(group.any(0) for group in part[1:].split(4))]) for part in parts]
                       ).numpy()


@torch.no_grad()
def latent_chunk(number: int, stamp: str, slower: int, compiled: bool = False) -> dict[str, torch.Tensor]:
    """Latents, conditions [CHUNK,16,4,16,16] and captions' embeddings [CHUNK,77,96], fp16, and neighbourhoods of
    objects, bool [CHUNK,4,16,16], of SCENES long clips at 1 / `slower` of the world's speed; cached on disk under the
    encoder's `stamp`, so that no other encoder meets them."""
    path = CACHE / f"window_latents_{stamp}_{slower}_{number:03d}.pt"
    if not path.exists():
        vae, text_encoder = own_vae(), models.load_text_encoder()
        within, across = vae.encoder.within, vae.encoder.across
        if compiled:
            within, across = (torch.compile(part, dynamic=False) for part in (within, across))
        parts: dict[str, list[torch.Tensor]] = {"latents": [], "conditions": [], "text": [], "near": []}
        for index in range(number * SCENES, (number + 1) * SCENES):
            scene = slow_scene(index, frames=LONG, slower=slower)
            pages = np.stack([render_still(scene, frame) for frame in range(LONG)])
            latents, conditions = encode((within, across), vae, pages)
            text = text_encoder(models.tokenize([scene.caption])).last_hidden_state
            for key, value in (("latents", latents), ("conditions", conditions),
                               ("text", text.expand(len(latents), -1, -1))):
                parts[key].append(value.half())
            parts["near"].append(torch.from_numpy(near_objects(scene)))
        save_atomically({key: torch.cat(value) for key, value in parts.items()}, path)
    return torch.load(path, weights_only=True)


def encoder_stamp() -> str:
    """Twelve hex digits that name the published encoder (refining the decoder leaves latents valid)."""
    import hashlib

    digest = hashlib.sha256()
    for key, value in sorted(models.state_of("wan_vae").items()):
        if key.startswith(("encoder.", "conv1.")):
            digest.update(key.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def prepare(chunks: int, start: int = 0, slower: int = SLOWER, compiled: bool = False) -> None:
    """Encode ahead of a training that runs elsewhere."""
    stamp = encoder_stamp()
    for number in tqdm(range(start, chunks), desc="latents"):
        latent_chunk(number, stamp, slower, compiled)


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


def train(steps: int = 14000, batch: int = 8, peak: float = 2.5e-3, chunks: int = 60, compiled: bool = False) -> Run:
    """Train this stage; its state stays in the cache, for the next one to begin from.

    compiled: blocks through TorchInductor, which needs a C++ compiler and is a sixth faster.
    """
    torch.manual_seed(SEED)
    network = wan.build(num_layers=BLOCKS)
    quiet_residuals(network)
    run = Run("wan", {"wan": network}, steps, peak, SEED, ema=0.998, warmup=60, plain=PLAIN)
    return advance(run, BRISK, batch, chunks, 3, compiled)


def advance(run: Run, slower: int, batch: int, chunks: int, ready: int, compiled: bool = False) -> Run:
    """Train to the run's end on clips at 1 / `slower` of the world's speed, beginning with `ready` chunks of them."""
    network = run.modules["wan"]
    if compiled:
        for block in network.blocks:
            block.compile()
    stamp, empty = encoder_stamp(), silence()
    data: list[dict[str, torch.Tensor]] = []
    for _ in tqdm(range(run.step, run.steps), initial=run.step, total=run.steps, mininterval=30):
        while len(data) < min(chunks, ready + run.step // GROW):
            data.append(latent_chunk(len(data), stamp, slower))
        run.advance(loss_of(network, draw(data, batch, empty, run.generator), run.generator))
    run.write_curve()
    return run
