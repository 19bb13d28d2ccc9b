"""The flow-matching editor: FLUX.1 Kontext's transformer over the toy world, the source as reference latents.

    z_s = (1 - s) z + s e,   loss = mean  w(s) m(x) (v(z_s, s, c, text) - (e - z))^2,   s = 2 u / (1 + u)
    w(s) = 1.09 s^2 / (s^2 + 0.09),   m(x) = 1 + 4 [the answer differs from the source near x], normalised to mean 1

z, c are the scaled mean latents of answer and source. w keeps the least noisy levels, where an error of the answer
counts by 1 / s^2, from drowning the others. A twelfth of the instructions is dropped, for guidance. Text is the
instruction editor's text encoder's, frozen. It starts from a network that gives the source back (`flow_start`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tqdm import tqdm

from ... import models
from ...models import flow_editor
from ..loop import Run, publish
from .editor import changed
from .flow_pairs import kind_of, pairs_chunk
from .flow_start import give_back_the_source
from .unet import encoder_digest

SEED, DROP = 67, 1 / 12
#: what suits AdamW more than Muon: ends, embeddings, modulations
PLAIN = ("x_embedder", "context_embedder", "time_text_embed", "norm1", "norm.linear", "norm_out",
         "transformer_blocks.0.attn.norm_")
#: one more chunk of pairs joins after so many steps, so that training need not wait for all of them
GROW = 60


def loss_of(network, source: torch.Tensor, answer: torch.Tensor, text: torch.Tensor, pooled: torch.Tensor,
            generator: torch.Generator, shift: float = flow_editor.SHIFT) -> torch.Tensor:
    """The weighted loss above; source, answer [B,4,h,w] scaled latents; s = shift u / (1 + (shift - 1) u)."""
    u, noise = torch.rand((len(answer),), generator=generator), torch.randn(answer.shape, generator=generator)
    sigma = shift * u / (1 + (shift - 1) * u)
    s = sigma[:, None, None, None]
    guess = flow_editor.velocity(network, (1 - s) * answer + s * noise, source, sigma, text, pooled)
    focus = 1 + 4 * changed(source, answer).float()
    focus = focus / focus.mean((1, 2), keepdim=True)
    each = ((guess - (noise - answer)).square().mean(1) * focus).mean((1, 2))
    return (each * 1.09 * sigma**2 / (sigma**2 + 0.09)).mean()


class Pairs:
    """Growing chunks of pairs, of the given numbers, and the embeddings of their instructions, each made once."""

    def __init__(self, numbers: Sequence[int]):
        self.ahead = numbers
        self.vae, self.encoder = models.load_vae(), models.load_editor_text_encoder()
        self.latents, self.rows = torch.empty(0, 4, 16, 16), torch.empty(0, 2, dtype=torch.long)
        self.words: list[int] = []
        self.numbers: dict[str, int] = {}
        self.kinds: dict[str, list[int]] = {}
        self.text, self.pooled, self.chunks = torch.empty(0), torch.empty(0), 0
        self.learn([""])

    @torch.no_grad()
    def learn(self, words: list[str]) -> None:
        """Embed the instructions that are new."""
        new = [word for word in dict.fromkeys(words) if word not in self.numbers]
        if new:
            self.numbers |= {word: len(self.numbers) + i for i, word in enumerate(new)}
            text, pooled = flow_editor.embed_text(self.encoder, models.tokenize(new))
            self.text = torch.cat([self.text, text]) if len(self.text) else text
            self.pooled = torch.cat([self.pooled, pooled]) if len(self.pooled) else pooled

    def grow(self) -> None:
        """Take one more chunk."""
        chunk = pairs_chunk(self.vae, self.ahead[self.chunks])
        self.rows = torch.cat([self.rows, chunk["rows"] + len(self.latents)])
        self.latents = torch.cat([self.latents, chunk["latents"].float()])
        self.learn(chunk["words"])
        for word in chunk["words"]:
            self.kinds.setdefault(kind_of(word), []).append(len(self.words))
            self.words.append(self.numbers[word])
        self.chunks += 1

    def draw(
        self, count: int, generator: torch.Generator, shares: dict[str, float] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Source, answer, text, pooled of `count` random pairs, one in twelve without its instruction; `shares`: of the
        kinds, else all pairs alike."""
        picked = torch.randint(0, len(self.rows), (count,), generator=generator)
        if shares is not None:
            kinds = torch.multinomial(torch.tensor([*shares.values()]), count, True, generator=generator).tolist()
            each = [self.kinds[[*shares][kind]] for kind in kinds]
            picked = torch.tensor([rows[number % len(rows)] for rows, number in zip(each, picked.tolist())])
        silent = torch.rand((count,), generator=generator) < DROP
        number = torch.tensor([self.words[i] for i in picked.tolist()]).masked_fill(silent, 0)
        source, answer = self.rows[picked].T
        return self.latents[source], self.latents[answer], self.text[number], self.pooled[number]


def train(steps: int = 5000, batch: int = 24, peak: float = 1.5e-3, chunks: int = 28, publish_every: int = 500) -> None:
    """Train, publishing the running average now and then."""
    torch.manual_seed(SEED)
    network = flow_editor.build()
    give_back_the_source(network)
    run = Run("flow_editor", {"flow_editor": network}, steps, peak, SEED, ema=0.998, warmup=60, plain=PLAIN)
    pairs = Pairs(range(chunks))
    for _ in tqdm(range(run.step, steps), initial=run.step, total=steps, mininterval=20):
        while pairs.chunks < min(chunks, 3 + run.step // GROW):
            pairs.grow()
        run.advance(loss_of(network, *pairs.draw(batch, run.generator), run.generator))
        if run.step % publish_every == 0 or run.step == steps:
            release(run, seed=SEED, steps=run.step, planned_steps=steps, batch=batch, minutes=round(run.minutes, 1))


def release(run: Run, **record: Any) -> None:
    """Publish the running average, with `record` of how it came to be."""
    run.write_curve()
    publish("flow_editor", run.ema.average["flow_editor"], {
        "recipe": "toyworld/training/recipes/flow_editor.py", **record,
        "parameters": sum(p.numel() for p in run.modules["flow_editor"].parameters()),
        "architecture": {**flow_editor.CONFIG, "theta": flow_editor.THETA}, "text_encoder": "editor_text_encoder",
        "encoder": encoder_digest(models.load_vae())})
