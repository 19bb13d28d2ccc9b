"""Norms with a share of their input beside them, against sums written out in float64."""

from __future__ import annotations

import pytest
import torch
from steadyedit.kernels import adjustable_norm as kernels
from tolerances import TOLERANCES, assert_close
from torch import group_norm, layer_norm

# shape, groups, numbers in gamma0
SIZES = [((1, 1, 1), 1, 1), ((2, 6, 5), 3, 6), ((3, 8, 3, 7), 4, 8), ((2, 8, 1, 1), 2, 1), ((1, 10, 2, 3, 2), 5, 10),
         ((1, 1), 0, 1), ((2, 5, 7), 0, 7), ((3, 33), 0, 1), ((2, 1, 3, 16), 0, 16)]  # fmt: skip
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
FORMS = [kernels.adjustable_norm, kernels.adjustable_norm_native, kernels.adjustable_norm_reference]
EPS = 1e-3


def truth(z, weight, bias, gamma0, groups):
    """Sample by sample and group by group."""
    channels = z.shape[1] if groups else z.shape[-1]
    gamma0 = gamma0.expand(channels)
    samples = z.flatten(2).unbind(0) if groups and z.ndim > 2 else z.reshape(-1, channels, 1).unbind(0)
    outs = []
    for sample in samples:
        parts = []
        for index in torch.arange(channels).chunk(groups or 1):
            values = sample[index]
            mean = values.sum() / values.numel()
            deviation = (((values - mean) ** 2).sum() / values.numel() + EPS) ** 0.5
            scaled = weight[index, None] * (values - mean) / deviation + bias[index, None]
            parts.append(scaled + gamma0[index, None] * values)
        outs.append(torch.cat(parts))
    return torch.stack(outs).reshape(z.shape)


def inputs(size, seed=0):
    shape, groups, shares = size
    generator = torch.Generator().manual_seed(seed)
    channels = shape[1] if groups else shape[-1]
    made = [torch.randn(*s, generator=generator, dtype=torch.float64)
            for s in (shape, (channels,), (channels,), (shares,), shape)]  # fmt: skip
    return [3 * made[0] + 1, *made[1:4]], made[4]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.__name__)
def test_matches_the_formula(poisoned, form, dtype, size):
    tensors, slope = inputs(size)
    given = [t.to(dtype).requires_grad_() for t in tensors]
    wide = [t.detach().double().requires_grad_() for t in given]
    out, expected = form(*given, size[1], EPS), truth(*wide, size[1])
    out.backward(slope.to(dtype))
    expected.backward(slope.to(dtype).double())
    assert out.dtype == dtype and out.shape == given[0].shape
    assert_close(out, expected)
    for name, a, b in zip(("z", "weight", "bias", "gamma0"), given, wide, strict=True):
        assert_close(a.grad, b.grad, name=f"gradient of {name}")


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_without_a_share_it_is_torch_s_norm_to_the_bit(size):
    (z, weight, bias, gamma0), _ = inputs(size)
    z, weight, bias = z.float(), weight.float(), bias.float()
    groups, zero = size[1], torch.zeros(size[2])
    plain = group_norm(z, groups, weight, bias, EPS) if groups else layer_norm(z, z.shape[-1:], weight, bias, EPS)
    assert kernels.adjustable_norm(z, weight, bias, zero, groups, EPS).equal(plain)
    assert kernels.adjustable_norm(z, weight, bias, None, groups, EPS).equal(plain)


@pytest.mark.parametrize("layout", ["channels last", "transposed"])
def test_every_layout_in_memory(layout):
    (z, *rest), slope = inputs(((3, 8, 4, 7), 4, 8))
    z, rest = z.float(), [t.float() for t in rest]
    kind = torch.channels_last if layout == "channels last" else torch.contiguous_format
    given = z.contiguous(memory_format=kind) if kind != torch.contiguous_format else z.mT.contiguous().mT
    given.requires_grad_()
    zero = torch.zeros(8)
    plain = group_norm(given, 4, *rest[:2], EPS)
    assert kernels.adjustable_norm(given, *rest[:2], zero, 4, EPS).equal(plain)
    wide = z.double().requires_grad_()
    kernels.adjustable_norm(given, *rest, 4, EPS).backward(slope.float())
    truth(wide, *(t.double() for t in rest), 4).backward(slope.float().double())
    assert_close(given.grad, wide.grad)


@pytest.mark.parametrize("missing", [(0,), (1,), (2,), (0, 1, 2)])
def test_what_is_missing_is_one_or_zero(missing):
    (z, *affine), slope = inputs(((2, 6, 5), 3, 6))
    z = z.float().requires_grad_()
    stand_ins = [torch.ones(6), torch.zeros(6), torch.zeros(6)]
    left = [None if i in missing else t.float() for i, t in enumerate(affine)]
    whole = [stand_ins[i] if t is None else t for i, t in enumerate(left)]
    wide = z.detach().double().requires_grad_()
    out = kernels.adjustable_norm(z, *left, 3, EPS)
    out.backward(slope.float())
    expected = truth(wide, *(t.double() for t in whole), 3)
    expected.backward(slope.float().double())
    assert_close(out, expected)
    assert_close(z.grad, wide.grad)


def test_only_what_is_asked_for_gets_a_gradient():
    (z, weight, bias, gamma0), slope = inputs(((2, 6, 5), 3, 6))
    kernels.adjustable_norm(z, weight, bias, gamma0.requires_grad_(), 3, EPS).backward(slope)
    assert (gamma0.grad - (z * slope).sum((0, 2))).abs().max() < TOLERANCES[torch.float64] * 100
    assert z.grad is weight.grad is bias.grad is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": 4}, "6 channels do not split into 4 groups"),
        ({"groups": -1}, "6|5 channels do not split into -1 groups"),
        ({"weight": torch.ones(5)}, r"weight \(5,\) does not fit 6 channels"),
        ({"gamma0": torch.ones(2)}, r"gamma0 \(2,\) does not fit 6 channels"),
        ({"z": torch.ones(6)}, r"\(6,\) is not \[batch, channels, ...\]"),
    ],
)
def test_misfits_are_named(change, message):
    given = {"z": torch.ones(2, 6, 5), "weight": torch.ones(6), "bias": torch.ones(6), "gamma0": torch.ones(6)}
    with pytest.raises(ValueError, match=message):
        kernels.adjustable_norm(**{**given, "groups": 3, **change})


def test_channels_last_where_only_the_weights_train():
    """The first norm of a U-Net: nothing before it asks for a gradient, and convolutions may put the channels last."""
    z = torch.randn(8, 64, 16, 16).contiguous(memory_format=torch.channels_last)
    weight, bias, gamma0 = (torch.randn(64, requires_grad=True) for _ in range(3))
    slope, found = torch.randn_like(z), []
    for form in (kernels.adjustable_norm_native, kernels.adjustable_norm_reference):
        out = form(z, weight, bias, gamma0, 32, EPS)
        found.append(torch.autograd.grad(out, (weight, bias, gamma0), slope))
    for mine, theirs in zip(*found, strict=True):
        assert_close(mine, theirs.double())
