"""Everything that can runs in float16 and bfloat16: a U-Net stored so, beside the same in float32, and training too."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from steadyedit.methods.registry import build_on
from steadyedit.methods.tuning import TuneRecipe, tune
from tiny_editor import BACKEND, normal, text, tiny
from tolerances import HALF_RUN

FRAMES = 4
METHODS = {"plain": {}, "stam": {}, "ffam": {}, "sparse-causal": {}, "temporal-attention": {}, "full-attention": {},
           "simda": {}, "gather-swap": {"group": 2}, "rave": {"grid": 2}, "norm-tune": {},
           "visual-adapter": {"positions": (3,)}}  # fmt: skip
TRAINED = ("stam", "temporal-attention", "simda", "norm-tune", "visual-adapter")
BAR = SimpleNamespace(update=lambda *args, **kwargs: None)


def condition(seed: int):
    return [[text(seed)[0][0].float(), {}]]


@pytest.fixture(scope="module")
def whole():
    return tiny(4, torch.float32)


def stored(whole, dtype: torch.dtype, name: str):
    model = replace(whole, unet=copy.deepcopy(whole.unet).to(dtype))
    if name == "plain":
        return model
    attachment = build_on(BACKEND, model, name, METHODS[name])
    generator = torch.Generator().manual_seed(5)
    for tree in attachment.trees:  # away from the start, where it does nothing
        for parameter in tree.parameters():
            parameter.data.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return BACKEND.attach(model, attachment)


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("dtype", HALF_RUN, ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_inversion_and_sampling(whole, name, dtype):
    found = []
    for kind in (torch.float32, dtype):
        model = stored(whole, kind, name)
        sigmas = BACKEND.schedule(model).ddim_sigmas(3)
        path = BACKEND.invert(model, condition(1), normal(3, FRAMES, 4, 6, 6).float(), sigmas.flip(0), 0, BAR)
        edited = BACKEND.sample(model, condition(2), condition(4), 3.0, path[-1], sigmas, BAR)
        assert edited.dtype == torch.float32 and edited.isfinite().all()
        found.append((path[-1], edited))
    for expected, got in zip(*found, strict=True):
        assert off(got, expected) < HALF_RUN[dtype]


@pytest.mark.parametrize("dtype", HALF_RUN, ids=str)
@pytest.mark.parametrize("name", TRAINED)
def test_training(whole, name, dtype):
    """What trains stays in float32; the losses are those of float32, and nothing is off in the weights' first steps."""
    recipe, found = TuneRecipe(steps=3, learning_rate=1e-3), []
    for kind in (torch.float32, dtype):
        tuned = tune(BACKEND, stored(whole, kind, name), normal(3, FRAMES, 4, 6, 6).float(), condition(1), recipe,
                     preview_every=0)  # fmt: skip
        assert all(value.dtype == torch.float32 and value.isfinite().all() for value in tuned.weights.tensors.values())
        found.append(tuned.losses)
    assert found[1] == pytest.approx(found[0], rel=HALF_RUN[dtype])


@pytest.mark.parametrize("dtype", [torch.bfloat16], ids=str)
def test_under_autocast(whole, dtype):
    """A caller's own autocast changes no more than the storage does, in training either."""
    found = []
    for on in (False, True):
        model = stored(whole, torch.float32, "stam")
        with torch.autocast("cpu", dtype, enabled=on):
            sigmas = BACKEND.schedule(model).ddim_sigmas(3)
            noisy = 10 * normal(3, FRAMES, 4, 6, 6).float()
            edited = BACKEND.sample(model, condition(2), None, 1.0, noisy, sigmas, BAR)
            losses = tune(BACKEND, model, normal(3, FRAMES, 4, 6, 6).float(), condition(1),
                          TuneRecipe(steps=2, learning_rate=1e-3), preview_every=0).losses  # fmt: skip
        found.append((edited.float(), losses))
    assert off(found[1][0], found[0][0]) < HALF_RUN[dtype]
    assert found[1][1] == pytest.approx(found[0][1], rel=HALF_RUN[dtype])
