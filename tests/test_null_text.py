"""Null-text inversion on a diffusers U-Net against its authors' loop, and what it is for: the clip comes back."""

from __future__ import annotations

import pytest
import torch
from steadyedit.methods.null_text import NullTextRecipe, invert, per_step_conditioning
from steadyedit.methods.null_text.inversion import Search
from test_diffusers_via import error
from tiny_editor import BACKEND, SIDE, normal, text, tiny
from tolerances import RUN

FRAMES, STEPS, GUIDANCE = 2, 5, 4.0


class Bar:
    """Counts, and is cancelled once it has shown so much."""

    def __init__(self, most=10**9):
        self.most, self.seen = most, []

    def update(self, value, preview=None, **numbers):
        self.seen.append(value)
        if value > self.most:
            raise KeyboardInterrupt


def prompt(seed):
    return [[text(seed)[0][0].float(), {}]]


SOURCE, EMPTY = prompt(1), prompt(2)


@pytest.fixture(scope="module")
def painter():
    return tiny(in_channels=4, dtype=torch.float32)


@pytest.fixture(scope="module")
def clip():
    return 5 * normal(4, FRAMES, 4, SIDE, SIDE).float()


def inverted(painter, clip, cache=None, bar=None, **settings):
    recipe = NullTextRecipe(guidance=GUIDANCE, **{"inner_steps": 4, "learning_rate": 0.1, **settings})
    return invert(BACKEND, painter, clip, SOURCE, EMPTY, STEPS, recipe, cache=cache, progress=bar or Bar())


def authors(painter, path, recipe, sigmas, text):
    """The loop of null_text_w_ptp.ipynb, on what it has: alphas, and latents in the scale of the U-Net."""
    alphas = [1 / (1 + float(sigma) ** 2) for sigma in sigmas]
    latents = [x * painter.latent_scale * a**0.5 for x, a in zip(reversed(path), alphas, strict=True)]
    current, texts = latents[0], []

    def noise(z, words, sigma):
        words = words.expand(len(z), -1, -1)
        return painter.unet(z, painter.schedule.timestep(sigma), encoder_hidden_states=words).sample

    def previous(z, out, alpha, alpha_previous):
        clean = (z - (1 - alpha) ** 0.5 * out) / alpha**0.5
        return alpha_previous**0.5 * clean + (1 - alpha_previous) ** 0.5 * out

    for i in range(STEPS):
        text = text.clone().detach().requires_grad_(True)
        optimizer = torch.optim.Adam([text], lr=recipe.learning_rate * (1 - i / (2 * STEPS)))
        with torch.no_grad():
            conditional = noise(current, SOURCE[0][0], sigmas[i])

        def step(words, i=i, conditional=conditional, current=current):
            out = noise(current, words, sigmas[i])
            out = out + recipe.guidance * (conditional - out)
            return previous(current, out, alphas[i], alphas[i + 1])

        for _ in range(recipe.inner_steps):
            loss = torch.nn.functional.mse_loss(step(text), latents[i + 1])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            bound = recipe.stop + i * 1e-3 / STEPS
            if loss.item() < bound:
                break
        texts.append(text.detach())
        with torch.no_grad():
            current = step(text)
    return texts


@pytest.mark.parametrize("per_frame", [False, True])
def test_it_is_the_authors_loop(painter, clip, per_frame):
    """A text for all frames as for a video; a text a frame as for each frame alone. One stops early, one late."""
    stop = 3e-2
    found = inverted(painter, clip, stop=stop, per_frame=per_frame)
    recipe = NullTextRecipe(guidance=GUIDANCE, inner_steps=4, learning_rate=0.1, stop=stop)
    parts = [[x[i : i + 1] for x in found.trajectory] for i in range(FRAMES)] if per_frame else [found.trajectory]
    theirs = [authors(painter, part, recipe, found.sigmas, EMPTY[0][0]) for part in parts]
    for step, (ours, _) in enumerate(found.negative):
        assert error(ours, torch.cat([texts[step] for texts in theirs])) < RUN


def test_guidance_gives_the_clip_back(painter, clip):
    found = inverted(painter, clip, inner_steps=20)

    def back(negative, guidance):
        return BACKEND.sample(painter, SOURCE, negative, guidance, found.trajectory[-1], found.sigmas, Bar())

    guided, plain, unguided = back(found.negative, GUIDANCE), back(EMPTY, GUIDANCE), back(SOURCE, 1.0)
    wrong = [(x - clip).square().mean().item() for x in (guided, plain, unguided)]
    assert wrong[0] < 0.5 * wrong[1] and wrong[0] < 2 * wrong[2]


def test_what_was_found_is_found_again_and_cut_off_goes_on(painter, clip, tmp_path, monkeypatch):
    monkeypatch.setattr("steadyedit.methods.null_text.inversion.CHECKPOINT", 1)
    whole = inverted(painter, clip)
    with pytest.raises(KeyboardInterrupt):
        inverted(painter, clip, tmp_path, Bar(most=STEPS + 2 * 4))
    assert [path.suffix for path in tmp_path.iterdir()] == [".null_text"]
    bar = Bar()
    resumed = inverted(painter, clip, tmp_path, bar)
    assert not resumed.from_cache and min(value for value in bar.seen if value > STEPS) > STEPS + 2 * 4
    found = inverted(painter, clip, tmp_path)
    assert found.from_cache
    for other in (resumed, found):
        assert all(error(a[0], b[0]) < RUN for a, b in zip(whole.negative, other.negative, strict=True))
        assert other.losses == pytest.approx(whole.losses, rel=RUN)
    assert not inverted(painter, clip, tmp_path, stop=1e-3).from_cache


def test_short_of_memory_it_goes_on_with_checkpointing(painter, clip, monkeypatch):
    opened, step = [], Search._step

    def short(self, view, number, *args):
        if number == 2 and len(opened) == 1:
            raise torch.OutOfMemoryError("out of memory")
        return step(self, view, number, *args)

    training = type(BACKEND).training

    def watched(self, *args, **how):
        opened.append(args[-1])
        return training(self, *args, **how)

    monkeypatch.setattr(Search, "_step", short)
    monkeypatch.setattr(type(BACKEND), "training", watched)
    found = inverted(painter, clip)
    assert opened == [False, True] and len(found.losses) == STEPS
    monkeypatch.setattr(Search, "_step", lambda *args: (_ for _ in ()).throw(torch.OutOfMemoryError("out of memory")))
    with pytest.raises(MemoryError, match="latent: memory ran out in null-text inversion, also with gradient"):
        inverted(painter, clip)


def test_each_level_has_one_text():
    """Half-way between the steps the texts change; a sampler that evaluates elsewhere finds the nearest step's."""
    found = per_step_conditioning([torch.full((1, 1, 1), float(i)) for i in range(3)], [801, 401, 1], {"pooled": 1})
    spans = [(extra["start_percent"], extra["end_percent"]) for _, extra in found]
    assert spans[0][0] == 0 and spans[-1][1] == 1 and all(extra["pooled"] == 1 for _, extra in found)
    assert [end for _, end in spans[:-1]] == pytest.approx([1 - 601 / 999, 1 - 201 / 999])


@pytest.mark.parametrize("settings, message", [
    ({"guidance": 1}, "guidance: at 1 the sampler leaves the unconditional text out"),
    ({"inner_steps": 0}, "inner_steps: expected 1 or more"),
    ({"learning_rate": 0.0}, "learning_rate: expected a number above 0"),
])  # fmt: skip
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        NullTextRecipe(**settings)


def test_prompts_that_do_not_fit_are_named(painter, clip):
    for name, source, empty in (("conditioning", [*SOURCE, *SOURCE], EMPTY), ("negative", SOURCE, [*EMPTY, *EMPTY])):
        with pytest.raises(ValueError, match=f"{name}: holds 2 conditions, but null-text inversion takes one"):
            invert(BACKEND, painter, clip, source, empty, STEPS, progress=Bar())
    overlapping = [[EMPTY[0][0], {"start_percent": 0.0, "end_percent": 0.6}], [EMPTY[0][0], {"start_percent": 0.5}]]
    with pytest.raises(ValueError, match="negative: expected one condition at every noise level, but its 2 overlap"):
        BACKEND.sample(painter, SOURCE, overlapping, 4.0, clip, painter.schedule.ddim_sigmas(2), Bar())
