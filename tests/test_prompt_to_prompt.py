"""Prompt-to-Prompt on a diffusers U-Net against its authors' order of things: maps, edited in one batch of both."""

from __future__ import annotations

import copy

import pytest
import torch
from steadyedit.backends.diffusers import Denoiser
from steadyedit.backends.diffusers.sampling import sample
from steadyedit.methods.prompt_to_prompt import (
    LocalBlend,
    SourceText,
    TextTokens,
    align,
    marked,
    token_weights,
)
from steadyedit.methods.registry import build
from steadyedit.methods.tune_a_video.sparse_causal import sparse_causal_mixing
from test_diffusers_via import EXACT, error
from tiny_editor import BACKEND, SIDE, normal, text, tiny

FRAMES, STEPS, GUIDANCE = 3, 5, 7.5
SOURCE, TARGET, NEGATIVE = text(1), text(2), text(3)
VOCABULARY = ["<", ">", "a", "green", "purple", "fish", "big", "swims", "gold", "en", "!"]
SPELLED = {"golden": ["gold", "en"]}


def encode(line, window=7):
    """A tokenizer of whole words but golden, which is two tokens; the end fills up."""
    ids = [VOCABULARY.index(part) for word in line.split() for part in SPELLED.get(word, [word])]
    rows = [ids[i : i + window - 2] for i in range(0, max(len(ids), 1), window - 2)]
    return [token for row in rows for token in [0, *row, *[1] * (window - 1 - len(row))]]


def read(line):
    return TextTokens.read(line, encode)


@pytest.fixture(scope="module")
def painter():
    return tiny(in_channels=4)


@pytest.fixture(scope="module")
def sigmas(painter):
    return painter.schedule.ddim_sigmas(STEPS).double()


@pytest.fixture(scope="module")
def noise(sigmas):
    return normal(60, FRAMES, 4, SIDE, SIDE) * sigmas[0]


def controlled(painter, line="a purple fish", edit="auto", **settings):
    before, after = read("a green fish"), read(line)
    config = {"source": SourceText(SOURCE), "alignment": align(before, after, edit), **settings}
    if isinstance(config.get("weights"), str):
        config["weights"] = token_weights(after, config["weights"])
    return BACKEND.attach(painter, build("prompt-to-prompt", BACKEND.sites(painter), config))


def run(model, noise, sigmas, sampler="euler", positive=TARGET, guidance=GUIDANCE, **options):
    denoise = Denoiser(model, positive, NEGATIVE, guidance, frames=FRAMES, **options)
    return sample(denoise, sampler, noise, sigmas, {"seed": 3})


class Literal:
    """Negative, source and target of one frame in a batch, and whole maps in both attentions. It owns its U-Net."""

    def __init__(self, painter, mapping, taken, weights=None, cross=0.8, own=0.4, size=32, blend=None):
        self.unet, self.schedule = copy.deepcopy(painter.unet), painter.schedule
        self.mapping, self.taken = mapping.double(), taken.double()
        self.weights = torch.ones_like(self.taken) if weights is None else weights.double()
        self.cross, self.own, self.size, self.blend = int(cross * (STEPS + 1)), int(own * STEPS), size, blend
        self.stored = torch.zeros(2, SIDE * SIDE, dtype=torch.float64)
        for name, attention in self.unet.named_modules():
            if name.endswith(("attn1", "attn2")):
                attention.set_processor(self.processor(name))

    def processor(self, name):
        def maps(attn, q, k):
            q, k = (z.unflatten(2, (attn.heads, -1)).transpose(1, 2) for z in (q, k))
            return (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1)

        class Processor:
            def __call__(_, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **kwargs):
                context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
                found = maps(attn, attn.to_q(hidden_states), attn.to_k(context))
                # Rows: negative of source and target, source, target.
                if name.endswith("attn2"):
                    if self.step < self.cross:
                        taken = found[2] @ self.mapping
                        found[3] = (taken * self.taken + found[3] * (1 - self.taken)) * self.weights
                    if "mid" not in name and self.blend is not None:
                        words = [self.blend.source, self.blend.target]
                        for side, word in enumerate(words):
                            self.stored[side] += (found[2 + side] * word.double()).sum(-1).mean(0)
                elif self.step < self.own and hidden_states.shape[1] <= self.size**2:
                    found[3] = found[2]
                v = attn.to_v(context).unflatten(2, (attn.heads, -1)).transpose(1, 2)
                return attn.to_out[0]((found @ v).transpose(1, 2).flatten(2))

        return Processor()

    def mask(self):
        """Widened by hand, cell by cell."""
        out = torch.zeros(SIDE, SIDE, dtype=torch.bool)
        for stored in self.stored.unflatten(1, (SIDE, SIDE)):
            wide = torch.empty_like(stored)
            for i in range(SIDE):
                for j in range(SIDE):
                    wide[i, j] = stored[max(0, i - 1) : i + 2, max(0, j - 1) : j + 2].max()
            out |= wide / wide.max() > self.blend.threshold
        return out.double()

    @torch.no_grad()
    def edit(self, noise, sigmas, target=TARGET):
        """One frame after the other."""
        words = torch.cat([NEGATIVE[0][0], NEGATIVE[0][0], SOURCE[0][0], target[0][0]])
        edited, masks = [], []
        for frame in noise:
            x, self.stored = torch.stack([frame, frame]), torch.zeros_like(self.stored)
            for self.step, (now, then) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
                batch = torch.cat([x, x]) / (1 + now**2).sqrt()
                out = self.unet(batch, self.schedule.timestep(now[None]), encoder_hidden_states=words).sample
                negative, positive = out.chunk(2)
                x = x + (then - now) * (negative + GUIDANCE * (positive - negative))
                if self.blend is not None and self.step >= int(self.blend.start * STEPS):
                    masks.append(self.mask())
                    x[1] = x[0] + masks[-1] * (x[1] - x[0])
            edited.append(x[1])
        return torch.stack(edited), masks


def literal(painter, line="a purple fish", edit="auto", weights=None, **settings):
    found = align(read("a green fish"), read(line), edit)
    factors = None if weights is None else token_weights(read(line), weights)
    return Literal(painter, found.mapping, found.taken, factors, **settings)


@pytest.mark.parametrize("settings, theirs", [
    ({}, {}),
    ({"line": "a big green fish", "weights": "big: 2.5, fish: 0.5", "cross_steps": 1.0, "self_steps": 0.0},
     {"line": "a big green fish", "weights": "big: 2.5, fish: 0.5", "cross": 1.0, "own": 0.0}),
    ({"line": "a golden fish", "cross_steps": 0.3, "self_steps": 1.0, "chunk": 2},
     {"line": "a golden fish", "cross": 0.3, "own": 1.0}),
    ({"cross_steps": 0.5, "self_size": 4}, {"cross": 0.5, "size": 4}),
], ids=["swap", "refine and weights", "one word for two tokens", "layers too large"])  # fmt: skip
def test_it_is_the_authors_order_of_things(painter, sigmas, noise, settings, theirs):
    out = run(controlled(painter, **settings), noise, sigmas)
    expected, _ = literal(painter, **theirs).edit(noise, sigmas)
    assert error(out, expected) < EXACT
    assert error(run(painter, noise, sigmas), expected) > 1e-3


def test_what_is_outside_of_the_words_is_the_source(painter, sigmas, noise):
    blend = LocalBlend(marked("blend_source", read("a green fish"), "fish"),
                       marked("blend_target", read("a purple fish"), "purple Fish,"), threshold=0.97, start=0.4)
    out = run(controlled(painter, blend=blend, cross_steps=0.4), noise, sigmas)
    expected, masks = literal(painter, blend=blend, cross=0.4).edit(noise, sigmas)
    assert error(out, expected) < EXACT
    shares = [float(mask.mean()) for mask in masks]
    assert 0 < min(shares) and max(shares) < 1  # it cuts somewhere
    assert len(masks) == FRAMES * 3
    source = run(painter, noise, sigmas, positive=SOURCE)
    last = torch.stack(masks[2::3])[:, None]
    assert error(out * (1 - last), source * (1 - last)) < EXACT


def test_equal_prompts_give_the_source_and_no_steps_plain_sampling(painter, sigmas, noise):
    same = controlled(painter, line="a green fish", edit="refine")
    for sampler in ("euler", "heun", "dpmpp_2m"):
        assert error(run(same, noise, sigmas, sampler, positive=SOURCE),
                     run(painter, noise, sigmas, sampler, positive=SOURCE)) < EXACT
    nothing = controlled(painter, cross_steps=0.0, self_steps=0.0)
    assert torch.equal(run(nothing, noise, sigmas), run(painter, noise, sigmas))


def test_chunks_and_single_branches_do_not_matter(painter, sigmas, noise):
    blend = LocalBlend(None, marked("blend_target", read("a purple fish"), "fish"), threshold=0.9)
    whole = run(controlled(painter, blend=blend), noise, sigmas, "dpmpp_2m")
    assert error(run(controlled(painter, blend=blend, chunk=1), noise, sigmas, "dpmpp_2m"), whole) < EXACT
    assert error(run(controlled(painter, blend=blend), noise, sigmas, "dpmpp_2m", joint=False), whole) < EXACT


def test_frames_that_see_each_other_do_so_under_the_source_s_queries_and_keys(painter, sigmas, noise):
    """Sparse-causal attention on either side: with the source's prompt on both it is sampling with it alone."""
    mixing = BACKEND.attach(painter, build("sparse-causal", BACKEND.sites(painter), {}))
    same = controlled(mixing, line="a green fish", self_steps=1.0)
    plain = run(mixing, noise, sigmas, positive=SOURCE)
    assert error(run(same, noise, sigmas, positive=SOURCE), plain) < EXACT
    assert error(run(painter, noise, sigmas, positive=SOURCE), plain) > 1e-3
    seen = []

    def spy(q, k, v, heads, layout, inner=sparse_causal_mixing):
        seen.append((q, k))
        return inner(q, k, v, heads, layout)

    other = copy.copy(mixing.attachments[0])
    object.__setattr__(other, "mixing", spy)
    watched = controlled(BACKEND.attach(painter, other), self_steps=1.0)
    assert error(run(watched, noise, sigmas[:2]), run(mixing, noise, sigmas[:2])) > 1e-3
    half = len(seen) // 2  # the source's call first; the positive's rows are the first of either
    for (q, k), (q_source, k_source) in zip(seen[half:], seen[:half], strict=True):
        assert torch.equal(q[:FRAMES], q_source[:FRAMES]) and torch.equal(k[:FRAMES], k_source[:FRAMES])


def test_words_find_their_tokens():
    swap = align(read("a green fish"), read("a golden fish"))
    assert swap.mapping[2, 2] == swap.mapping[2, 3] == 0.5 and swap.mapping[3, 4] == 1
    assert (swap.mapping.sum(0)[[0, 1, 4, 5, 6]] == 1).all() and (swap.taken == 1).all()
    back = align(read("a golden fish"), read("a green fish"))
    assert back.mapping[2, 2] == back.mapping[3, 2] == 1 and back.mapping[4, 3] == 1
    more = align(read("a green fish"), read("a big green fish"))
    assert more.taken.tolist() == [1, 1, 0, 1, 1, 1, 1] and more.mapping[2, 3] == more.mapping[4, 5] == 1
    long = read("a green fish swims a big")
    assert len(long.ids) == 14 and long.places[5] == (8,)
    assert align(read("a green fish"), long).mapping.shape == (7, 14)


@pytest.mark.parametrize("call, message", [
    (lambda: align(read("a fish"), read("a big fish"), "swap"), "target: has 3 words, but source 2"),
    (lambda: align(read("a fish"), read("a fish"), "other"), "edit: expected one of"),
    (lambda: marked("blend_source", read("a fish"), "cat"), "blend_source: 'cat' is no word of 'a fish'"),
    (lambda: token_weights(read("a fish"), "fish 2"), "weights: expected words of the target with a number"),
    (lambda: token_weights(read("a fish"), "fish: nan"), "weights: expected words of the target with a number"),
    (lambda: LocalBlend(None, None), "blend_source, blend_target: both are empty"),
])  # fmt: skip
def test_bad_words_are_named(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()


def test_what_does_not_go_with_it(painter, sigmas, noise):
    model = controlled(painter)
    for other in ("gather-swap", "rave"):
        with pytest.raises(ValueError, match="give the model only one of the two"):
            BACKEND.attach(model, build(other, BACKEND.sites(painter), {}))
    with pytest.raises(ValueError, match="positive: holds 3 prompts, one a frame, but Prompt-to-Prompt edits one"):
        run(model, noise, sigmas, positive=text(2, texts=FRAMES))
    wrong = [[torch.cat([TARGET[0][0], TARGET[0][0][:, :2]], 1), {}]]
    with pytest.raises(ValueError, match="positive: holds 9 tokens, where Prompt-to-Prompt knows the words of 7"):
        run(model, noise, sigmas, positive=wrong, guidance=1.0)
    with pytest.raises(ValueError, match="cross_steps: expected a share of the steps from 0 to 1, but got 2"):
        controlled(painter, cross_steps=2)
