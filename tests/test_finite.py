"""Values that are not finite are found wherever they stand, in every dtype that pixels and latents come in."""

import pytest
import torch
from steadyedit.methods.finite import check_finite, finite


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2])
@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (2, 3, 4), (2, 3, 4, 5), (2, 3, 2, 4, 5)])
def test_one_value_is_found(shape, dtype):
    good = torch.ones(shape, dtype=dtype)
    assert finite(good)
    for value in (torch.nan, torch.inf, -torch.inf):
        for place in {0, good.numel() // 2, good.numel() - 1}:
            bad = good.clone()
            bad.view(-1)[place] = value
            assert not finite(bad), (value, place)


def test_what_holds_no_such_value():
    assert finite(torch.zeros(0, 3, 4, 5))
    assert finite(torch.zeros(2, 0, 4, 5))
    assert finite(torch.arange(5))
    assert finite(torch.ones(2, 2, dtype=torch.bool))
    # The largest of a dtype, whose sum is not finite.
    assert finite(torch.full((4, 4), torch.finfo(torch.float16).max, dtype=torch.float16))


def test_the_sentence_names_the_input():
    with pytest.raises(ValueError, match="^mask: it holds NaN or infinite values; check what made it.$"):
        check_finite("mask", torch.tensor([1, torch.nan]))
    check_finite("mask", torch.ones(2))
