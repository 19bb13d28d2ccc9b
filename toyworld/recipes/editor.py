"""The instruction editor: InstructPix2Pix's U-Net over the toy world (Brooks, Holynski, Efros 2023).

    z_t = sqrt(abar_t) z + sqrt(1 - abar_t) e,   loss = mean  w(t) m(x) (e_hat([z_t | c], t, text) - e)^2
    m(x) = 1 + 4 [the answer differs from the source near x], normalised to mean 1

z are the scaled mean latents of the rendered answer, c the *raw* mean latents of the source (InstructPix2Pix does not
scale them) as input channels 5-8, text is the instruction; w(t) and the distribution of t are the text-to-image
recipe's. The text, the image, or both are dropped in 5 % of samples each, for guidance over either.

It starts from the text-to-image U-Net and its text encoder with zeros in the new input channels. What tells *what to
draw* at coarse resolution stays as it is; only what differs from that U-Net is stored (``models.OVERLAYS``).
"""

from __future__ import annotations

import json

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from .. import models
from ..data import CACHE, CHUNK, still
from ..edits import KINDS, apply_edit, edits_of
from ..rendering import render_still
from ..training import Run, publish
from .unet import SCALE, alphas_cumprod, draw_timesteps, encoder_digest, latent_chunk, level_weight

SEED = 53
DROP = 0.05
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


def starting_point():
    """The text-to-image U-Net with four silent input channels more, and its text encoder, the frozen parts frozen."""
    base, unet, text_encoder = models.load_unet(), models.build_unet(8), models.load_text_encoder()
    state = base.state_dict()
    state["conv_in.weight"] = torch.cat([state["conv_in.weight"], torch.zeros_like(state["conv_in.weight"])], 1)
    unet.load_state_dict(state)
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(not name.startswith(FROZEN))
    return unet.to(memory_format=torch.channels_last), text_encoder.requires_grad_(True)


def train(steps: int = 1600, batch: int = 32, peak: float = 1.5e-3, chunks: int = 6, publish_every: int = 200) -> None:
    """Train both, publishing the running average now and then."""
    torch.manual_seed(SEED)
    unet, text_encoder = starting_point()
    sources, answers, ids = dataset(chunks)
    empty, abar = models.tokenize([""])[0], alphas_cumprod()
    run = Run("editor", {"editor": unet, "editor_text_encoder": text_encoder}, steps, peak, SEED, ema=0.998, warmup=60)
    unet.train(), text_encoder.train()
    for _ in tqdm(range(run.step, steps), initial=run.step, total=steps, mininterval=20):
        rows = torch.randint(0, len(answers), (batch,), generator=run.generator)
        no_text, no_image = dropped(batch, run.generator)
        words = torch.where(no_text[:, None], empty, ids[rows])
        run.advance(loss_of(unet, text_encoder, sources[rows].float(), answers[rows].float(), words, no_image, abar,
                            run.generator))
        if run.step % publish_every == 0 or run.step == steps:
            release(run, batch)


def release(run: Run, batch: int) -> None:
    """Publish the running averages."""
    run.write_curve()
    for name, config in (("editor", {**models.UNET_CONFIG, "in_channels": 8}),
                         ("editor_text_encoder", models.TEXT_CONFIG)):
        publish(name, run.ema.average[name], {
            "recipe": "toyworld/recipes/editor.py", "seed": SEED, "steps": run.step, "planned_steps": run.steps,
            "batch": batch, "minutes": round(run.minutes, 1),
            "parameters": sum(p.numel() for p in run.modules[name].parameters()), "architecture": config,
            "scheduler": models.SCHEDULER_CONFIG, "encoder": encoder_digest(models.load_vae())})
