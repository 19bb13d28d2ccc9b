"""DAPE trained through the host: a plain float64 copy's gradients, the other backend's numbers, no trace afterwards."""

from __future__ import annotations

import comfy.sd
import pytest
import torch
from dape import dape, with_dape
from steadyedit.backends.diffusers import DiffusersBackend, DiffusersModel
from steadyedit.methods.registry import build
from steadyedit.methods.tuning import TuneRecipe, apply_tuned, tune
from test_training import gradients, reference, relative_error, reloaded
from toys import (
    BACKEND,
    FRAMES,
    METHODS,
    Quiet,
    assert_close,
    assert_untouched,
    clip,
    diffusers_unet,
    model,
    moved,
    text,
    traces,
    weights,
)  # fmt: skip

OTHER = DiffusersBackend()
UNDER = ("temporal-attention", "sparse-causal")


def owned(patcher, *under):
    """DAPE on top of other methods, all of it trained."""
    return [moved(build(m, BACKEND.sites(patcher), METHODS[m]), 0.05) for m in under] + dape(patcher, scale=0.05)


@pytest.mark.parametrize(("under", "checkpointing"), [((), False), ((), True), (UNDER, True)])
def test_gradients_are_those_of_a_plain_copy(under, checkpointing):
    patcher = model()
    attachments = owned(patcher, *under)
    expected_loss, expected = reference(attachments)
    before, marks = weights(patcher), traces(patcher)
    with torch.inference_mode():
        loss, found = gradients(patcher, attachments, checkpointing=checkpointing)
    assert loss == pytest.approx(expected_loss, rel=1e-4)
    assert found.keys() == expected.keys()
    for name in ("gamma", "beta", "gamma0", "w0", "conv", "up"):
        named = {key: value for key, value in expected.items() if key.endswith(f".{name}")}
        assert relative_error(found, named) < 5e-4, name
    assert_untouched(patcher, before, marks)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e4m3fn], ids=str)
def test_stored_weights_may_be_narrow(dtype):
    patcher, rounded = reloaded(dtype), reloaded(dtype, back=torch.float32)
    attachments = dape(patcher, scale=0.05)
    with torch.inference_mode():
        loss, found = gradients(patcher, attachments)
        expected_loss, expected = gradients(rounded, attachments)
    assert loss == pytest.approx(expected_loss, rel=1e-4)
    assert relative_error(found, {k: v.double() for k, v in expected.items()}) < 1e-3
