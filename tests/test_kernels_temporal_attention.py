"""Attention over frames, against sums written out in float64."""

from __future__ import annotations

import math

import pytest
import torch
from steadyedit.kernels import temporal_attention as kernels
from steadyedit.kernels.temporal_attention import sdpa
from tolerances import assert_close

# branches, frames, tokens, heads, head_dim
SIZES = [(1, 1, 1, 1, 1), (2, 3, 5, 3, 5), (1, 9, 7, 2, 4), (3, 2, 1, 1, 6)]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
FORMS = [kernels.temporal_attention, kernels.temporal_attention_sdpa, kernels.temporal_attention_reference]


def truth(z, wq, wk, wv, heads, frames):
    """Place by place and head by head."""
    clips = []
    for clip in z.split(frames):
        places = []
        for place in clip.unbind(1):
            q, k, v = (place @ w.T for w in (wq, wk, wv))
            outs = []
            for q_, k_, v_ in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
                weights = (q_ @ k_.T / math.sqrt(q_.shape[-1])).exp()
                outs.append(weights / weights.sum(-1, keepdim=True) @ v_)
            places.append(torch.cat(outs, -1))
        clips.append(torch.stack(places, 1))
    return torch.cat(clips)


def inputs(size, seed=0):
    branches, frames, tokens, heads, head_dim = size
    generator = torch.Generator().manual_seed(seed)
    channels = heads * head_dim
    z, slope = (
        torch.randn(branches * frames, tokens, channels, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    weights = [
        torch.randn(channels, channels, generator=generator, dtype=torch.float64) * channels**-0.5 for _ in range(3)
    ]
    return [z, *weights], slope


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.__name__)
def test_matches_the_formula(poisoned, form, dtype, size):
    tensors, slope = inputs(size)
    heads, frames = size[3], size[1]
    given = [t.to(dtype).requires_grad_() for t in tensors]
    wide = [t.detach().double().requires_grad_() for t in given]
    out, expected = form(*given, heads, frames), truth(*wide, heads, frames)
    out.backward(slope.to(dtype))
    expected.backward(slope.to(dtype).double())
    assert out.dtype == dtype
    # Projections are rounded to the type before attention, which roughly doubles the error.
    assert_close(out / 2, expected / 2)
    for name, a, b in zip(("z", "wq", "wk", "wv"), given, wide, strict=True):
        assert_close(a.grad / 2, b.grad / 2, name=f"gradient of {name}")


def test_many_places_go_in_rounds(monkeypatch):
    monkeypatch.setattr(sdpa, "ROWS_AT_ONCE", 4)
    tensors, _ = inputs((2, 3, 5, 3, 5))
    assert_close(kernels.temporal_attention_sdpa(*tensors, 3, 3), truth(*tensors, 3, 3))


def test_branches_in_one_call_or_two():
    (z, *weights), _ = inputs((2, 3, 5, 3, 5))
    apart = torch.cat([kernels.temporal_attention(part, *weights, 3, 3) for part in z.split(3)])
    assert_close(kernels.temporal_attention(z, *weights, 3, 3), apart)


@pytest.mark.parametrize(
    ("heads", "frames", "message"), [(3, 4, "with 4 frames"), (4, 3, "15 channels do not split into 4 heads")]
)
def test_misfits_are_named(heads, frames, message):
    tensors, _ = inputs((2, 3, 5, 3, 5))
    with pytest.raises(ValueError, match=message):
        kernels.temporal_attention(*tensors, heads, frames)
