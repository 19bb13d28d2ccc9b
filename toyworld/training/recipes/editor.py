"""The instruction editor: InstructPix2Pix's U-Net over the toy world (Brooks, Holynski, Efros 2023).

    z_t = sqrt(abar_t) z + sqrt(1 - abar_t) e,   loss = mean  w(t) m(x) (e_hat([z_t | c], t, text) - e)^2
    m(x) = 1 + 4 [the answer differs from the source near x], normalised to mean 1

z are the scaled mean latents of the rendered answer, c the *raw* mean latents of the source (InstructPix2Pix does not
scale them) as input channels 5-8, text is the instruction; w(t) and the distribution of t are the text-to-image
recipe's. The text, the image, or both are dropped in 5 % of samples each, for guidance over either.

It starts from the text-to-image U-Net and its text encoder with zeros in the new input channels. What tells *what to
draw* at coarse resolution stays as it is; only what differs from that U-Net is stored (``models.OVERLAYS``).

The model of this first stage trusts the noisy latents more than the source. Guided by text, the noisiest steps miss
the colour of a plain background by a tenth of its spread; noise hides no mean over so many pixels, so every later step
keeps what it finds. A second, short stage (``settle``) teaches the U-Net to look at the source instead:

    z_t = sqrt(abar_t) (z + d) + sqrt(1 - abar_t) e,   d = (0.1 + 0.05 s) (n_c + n_low / 2),   s = min(sigma_t, 5)
    loss = mean  v(t) (mean_x m(x) r(x)^2 + 8 (mean_outside r(x))^2),   r = x0_hat(z_t) - z,   v = w abar / (1 - abar)

n_c is a normal shift of each channel, n_low a normal field of 4x4 made smooth. The answer, not the source, is right
outside as well: the autoencoder's norms see the whole picture, and its decoder wants the background of the answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from ... import models
from ...world.edits import KINDS, apply_edit, edits_of
from ...world.rendering import render_still
from ..data import CACHE, CHUNK, still
from ..loop import Run, publish
from .unet import SCALE, alphas_cumprod, draw_timesteps, encoder_digest, latent_chunk, level_weight

SEED = 53
DROP = 0.05
#: of the second stage: weight of the mean error outside the change
OUTSIDE = 8.0
#: beginnings of the parameters' names that stay the text-to-image U-Net's
FROZEN = (
    "time_embedding.", "down_blocks.1.resnets.", "down_blocks.2.resnets.", "down_blocks.3.", "mid_block.resnets.",
    "down_blocks.0.downsamplers.", "down_blocks.1.downsamplers.", "down_blocks.2.downsamplers.", "up_blocks.0.",
    "up_blocks.1.upsamplers.", "up_blocks.2.upsamplers.",
)  # fmt: skip


def edit_of(index: int):
    """(scene, frame, edit) of training triple `index`: kinds in turn, the edit drawn by the index; None where the
    scene has no edit at all."""
    scene, frame = still(index, "train")
    edits, rng = edits_of(scene), np.random.default_rng(index)
    for kind in rng.permutation(KINDS):
        found = [edit for edit in edits if edit.kind == kind]
        if found:
            return scene, frame, found[rng.integers(len(found))]
    return None


def render_answer(index: int):
    """The answer's still, uint8 [128,128,3], and the instruction; an unchanged still under "" where none exists."""
    found = edit_of(index)
    if found is None:
        return render_still(*still(index, "train")), ""
    scene, frame, edit = found
    return render_still(apply_edit(scene, edit), frame), edit.instruction


@torch.no_grad()
def answer_chunk(vae, number: int) -> tuple[torch.Tensor, list[str]]:
    """Scaled mean latents of the answers [CHUNK,4,16,16] fp16 and the instructions; cached on disk."""
    path = CACHE / f"answers_{encoder_digest(vae)}_{number:03d}.pt"
    words = path.with_suffix(".json")
    if not words.exists():
        from concurrent.futures import ProcessPoolExecutor

        rows = range(number * CHUNK, (number + 1) * CHUNK)
        with ProcessPoolExecutor(2) as pool:
            pictures, instructions = zip(*pool.map(render_answer, rows, chunksize=50))
        latents = []
        for start in range(0, CHUNK, 8):
            x = torch.from_numpy(np.stack(pictures[start:start + 8])).permute(0, 3, 1, 2).float() / 127.5 - 1
            latents.append((vae.encode(x).latent_dist.mean * SCALE).half())
        torch.save(torch.cat(latents), path)
        words.write_text(json.dumps(instructions))  # last: its presence says the chunk is whole
    return torch.load(path, weights_only=True), json.loads(words.read_text())


def dataset(chunks: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scaled latents of sources and answers [N,4,16,16], token ids of the instructions [N,77]."""
    vae, sources, answers, words = models.load_vae(), [], [], []
    for number in tqdm(range(chunks), desc="triples"):
        sources.append(latent_chunk(vae, number)[0])
        latents, instructions = answer_chunk(vae, number)
        answers.append(latents)
        words += instructions
    return torch.cat(sources), torch.cat(answers), models.tokenize(words)


def changed(source: torch.Tensor, answer: torch.Tensor) -> torch.Tensor:
    """Where the answer differs, a latent pixel around included: bool [B,h,w]."""
    apart = ((source - answer).abs().mean(1, keepdim=True) > 0.15).float()
    return F.max_pool2d(apart, 3, 1, 1)[:, 0] > 0


def dropped(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Which rows go without text, which without image; bool [count] each. DROP of all lose one, the other, or both."""
    luck = torch.rand(count, generator=generator)
    return luck < 2 * DROP, (luck >= DROP) & (luck < 3 * DROP)


def loss_of(unet, text_encoder, source, answer, ids, no_image, abar, generator) -> torch.Tensor:
    """The weighted loss above; source, answer [B,4,h,w] scaled latents, no_image bool [B]."""
    t = draw_timesteps(len(answer), generator)
    noise = torch.randn(answer.shape, generator=generator)
    a = abar[t][:, None, None, None]
    focus = 1 + 4 * changed(source, answer).float()
    focus = focus / focus.mean((1, 2), keepdim=True)
    image = source / SCALE * (~no_image)[:, None, None, None]
    seen = torch.cat([a.sqrt() * answer + (1 - a).sqrt() * noise, image], 1)
    context = text_encoder(ids).last_hidden_state
    guess = unet(seen.contiguous(memory_format=torch.channels_last), t, context).sample
    return (((guess - noise) ** 2).mean(1) * focus).mean((1, 2)).mul(level_weight(abar[t])).mean()


def drift(answer: torch.Tensor, sigma: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """d above, of answers [B,4,h,w] at noise levels sigma [B]."""
    count, channels, *size = answer.shape
    shift = torch.randn((count, channels, 1, 1), generator=generator)
    field = torch.randn((count, channels, 4, 4), generator=generator)
    smooth = F.interpolate(field, size=size, mode="bicubic", align_corners=False)
    return (0.1 + 0.05 * sigma.clamp(max=5))[:, None, None, None] * (shift + smooth / 2)


def disturbed(answer: torch.Tensor, abar: torch.Tensor, generator: torch.Generator):
    """t [B], noise and drift drawn: (t, abar_t as [B,1,1,1], z_t of the drifted answer)."""
    t = torch.randint(0, 1000, (len(answer),), generator=generator)
    a = abar[t][:, None, None, None]
    noise = torch.randn(answer.shape, generator=generator)
    sigma = ((1 - abar[t]) / abar[t]).sqrt()
    return t, a, a.sqrt() * (answer + drift(answer, sigma, generator)) + (1 - a).sqrt() * noise


def settle_weight(abar: torch.Tensor) -> torch.Tensor:
    """v(t) above, of abar_t [B]."""
    return level_weight(abar) * abar / (1 - abar)


def mean_error(error: torch.Tensor, outside: torch.Tensor) -> torch.Tensor:
    """Mean square over the channels of the mean error outside: [B]; 0 where hardly anything is to be kept."""
    mean = (error * outside).sum((2, 3)) / outside.sum((2, 3)).clamp(min=1)
    return (mean**2).mean(1) * (outside.mean((1, 2, 3)) > 0.3)


def settle_loss_of(unet, text_encoder, source, answer, ids, no_image, abar, generator) -> torch.Tensor:
    """The second stage's loss above; arguments as of `loss_of`."""
    t, a, noisy = disturbed(answer, abar, generator)
    image = source / SCALE * (~no_image)[:, None, None, None]
    with torch.no_grad():
        context = text_encoder(ids).last_hidden_state
    guess = unet(torch.cat([noisy, image], 1).contiguous(memory_format=torch.channels_last), t, context).sample
    error = (noisy - (1 - a).sqrt() * guess) / a.sqrt() - answer
    there = changed(source, answer).float()
    focus = 1 + 4 * there
    focus = focus / focus.mean((1, 2), keepdim=True)
    each = (error**2).mean(1).mul(focus).mean((1, 2))
    each = each + OUTSIDE * mean_error(error, (1 - there)[:, None]) * ~no_image
    return each.mul(settle_weight(abar[t])).mean()


def starting_point():
    """The text-to-image U-Net with four silent input channels more, and its text encoder, the frozen parts frozen."""
    base, unet, text_encoder = models.load_unet(), models.build_unet(8), models.load_text_encoder()
    state = base.state_dict()
    state["conv_in.weight"] = torch.cat([state["conv_in.weight"], torch.zeros_like(state["conv_in.weight"])], 1)
    unet.load_state_dict(state)
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(not name.startswith(FROZEN))
    return unet.to(memory_format=torch.channels_last), text_encoder.requires_grad_(True)


def train(steps: int = 1600, batch: int = 32, peak: float = 1.5e-3, chunks: int = 6, publish_every: int = 200,
          settle: int = 900, settle_peak: float = 6e-4) -> None:
    """Train both, then the U-Net alone for `settle` steps, publishing the running average now and then."""
    torch.manual_seed(SEED)
    unet, text_encoder = starting_point()
    sources, answers, ids = dataset(chunks)
    empty, abar = models.tokenize([""])[0], alphas_cumprod()
    trained = {"editor": unet, "editor_text_encoder": text_encoder}

    def advance(run: Run, loss: Callable[..., torch.Tensor]) -> None:
        rows = torch.randint(0, len(answers), (batch,), generator=run.generator)
        no_text, no_image = dropped(batch, run.generator)
        words = torch.where(no_text[:, None], empty, ids[rows])
        run.advance(loss(unet, text_encoder, sources[rows].float(), answers[rows].float(), words, no_image, abar,
                         run.generator))

    run = Run("editor", trained, steps, peak, SEED, ema=0.998, warmup=60)
    unet.train(), text_encoder.train()
    for _ in tqdm(range(run.step, steps), initial=run.step, total=steps, mininterval=20):
        advance(run, loss_of)
        if run.step % publish_every == 0 or run.step == steps:
            release(run, batch)
    for name, module in trained.items():
        module.load_state_dict(run.ema.average[name])
    text_encoder.eval().requires_grad_(False)
    second = Run("editor_settle", trained, settle, settle_peak, SEED + 1, ema=0.99, warmup=20)
    for _ in tqdm(range(second.step, settle), initial=second.step, total=settle, mininterval=20):
        advance(second, settle_loss_of)
    release(second, batch, [run, second])


def release(run: Run, batch: int, stages: Sequence[Run] = ()) -> None:
    """Publish the running averages of a run, the last of `stages` if there are any."""
    for stage in stages or [run]:
        stage.write_curve()
    first, *later = stages or [run]
    record = {"recipe": "toyworld/training/recipes/editor.py", "seed": SEED,
              "steps": first.step, "planned_steps": first.steps,
              "batch": batch, "minutes": round(first.minutes, 1)}
    record |= {stage.name: {"seed": stage.seed, "steps": stage.step, "peak": stage.peak,
                            "minutes": round(stage.minutes, 1)} for stage in later}  # fmt: skip
    for name, config in (("editor", {**models.UNET_CONFIG, "in_channels": 8}),
                         ("editor_text_encoder", models.TEXT_CONFIG)):
        publish(name, run.ema.average[name], {
            **record, "parameters": sum(p.numel() for p in run.modules[name].parameters()), "architecture": config,
            "scheduler": models.SCHEDULER_CONFIG, "encoder": encoder_digest(models.load_vae())})
