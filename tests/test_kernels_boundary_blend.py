"""The blend of VIA's equation 6, spelt out in both readings, cell by cell in float64."""

from __future__ import annotations

import pytest
import torch
from steadyedit.kernels import boundary_blend as kernels
from tolerances import assert_close

# rows, channels, height, width; one mask for all rows or one each
SIZES = [((1, 1, 1, 1), 1), ((3, 4, 5, 7), 3), ((5, 2, 6, 3), 1)]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
FORMS = [kernels.boundary_blend_reference, kernels.boundary_blend_lerp]


def inputs(size, masks, binary=True):
    generator = torch.Generator().manual_seed(3)
    generated, source = (torch.randn(size, generator=generator, dtype=torch.float64) for _ in range(2))
    keep = torch.rand(masks, 1, *size[2:], generator=generator, dtype=torch.float64)
    return generated, source, keep.round() if binary else keep


def equation_6(mask: float, t: int, ramp: int) -> float:
    """M <- M t / T if t <= T and M = 1, else M."""
    return mask * t / ramp if t <= ramp and mask == 1 else mask


def spelt_out(generated, source, keep, t, ramp, reading):
    out = torch.empty_like(generated)
    for row in range(len(generated)):
        for y in range(generated.shape[2]):
            for x in range(generated.shape[3]):
                kept = keep[row % len(keep), 0, y, x].item()
                if reading == "A":
                    of_source = equation_6(kept, t, ramp)
                    of_edit = 1 - of_source
                else:
                    of_edit = equation_6(1 - kept, t, ramp)
                    of_source = 1 - of_edit
                out[row, :, y, x] = of_source * source[row, :, y, x] + of_edit * generated[row, :, y, x]
    return out


@pytest.mark.parametrize("size, masks", SIZES, ids=str)
@pytest.mark.parametrize("reading", ["A", "B"])
@pytest.mark.parametrize("t", [1, 2, 4, 5, 9])
def test_equation_6_to_the_letter(size, masks, reading, t):
    generated, source, keep = inputs(size, masks)
    out = kernels.boundary_blend(generated, source, keep, kernels.ramp_weight(t, 4), reading)
    assert_close(out, spelt_out(generated, source, keep, t, 4, reading))


@pytest.mark.parametrize("size, masks", SIZES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.__name__)
def test_both_forms_match_the_formula_and_its_gradients(poisoned, form, dtype, size, masks):
    given = [t.to(dtype).requires_grad_() for t in inputs(size, masks, binary=False)]
    wide = [t.detach().double().requires_grad_() for t in given]
    out, expected = form(*given), wide[2] * wide[1] + (1 - wide[2]) * wide[0]
    slope = torch.randn(size, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    out.backward(slope.to(dtype))
    expected.backward(slope.to(dtype).double())
    assert out.dtype == dtype
    assert_close(out, expected)
    for actual, wanted in zip(given, wide, strict=True):
        assert_close(actual.grad, wanted.grad)


@pytest.mark.parametrize("reading", ["A", "B"])
def test_whole_weights_change_no_bit(reading):
    generated, source, keep = inputs((3, 4, 5, 7), 3)
    generated, source = generated.float() * 1e3, source.float()
    out, kept = kernels.boundary_blend(generated, source, keep, 1.0, reading), (keep == 1).expand_as(source)
    assert torch.equal(out[kept], source[kept]) and torch.equal(out[~kept], generated[~kept])


def test_a_soft_mask_is_ramped_whole():
    """Half covered cells never hold more of the source than fully kept ones."""
    keep = torch.linspace(0, 1, 11).view(1, 1, 1, 11)
    for t in range(1, 6):
        weight = kernels.source_weight(keep, kernels.ramp_weight(t, 4)).flatten()
        assert (weight.diff() > 0).all() and weight[-1] == min(t / 4, 1)


def test_bad_input():
    generated, source, keep = inputs((3, 4, 5, 7), 3)
    with pytest.raises(ValueError, match="ramp"):
        kernels.ramp_weight(1, 0)
    with pytest.raises(ValueError, match="reading"):
        kernels.boundary_blend(generated, source, keep, 1.0, "C")
    with pytest.raises(ValueError, match="differ in shape"):
        kernels.boundary_blend(generated, source[:2], keep, 1.0)
    with pytest.raises(ValueError, match="mask"):
        kernels.boundary_blend(generated, source, keep[:2], 1.0)
