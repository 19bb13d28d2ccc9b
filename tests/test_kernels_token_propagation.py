"""Token propagation against TokenFlow's equations 4 and 5, token by token in float64."""

from __future__ import annotations

import math

import pytest
import torch
from steadyedit.kernels import token_propagation as kernels
from tolerances import assert_close

# frames, keyframes, tokens, channels, branches, channels of what is carried
SIZES = [(1, 1, 1, 2, 1, 1), (5, 3, 7, 6, 2, 4), (4, 2, 12, 3, 3, 5)]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
FORMS = [kernels.propagate_tokens_reference, kernels.propagate_tokens_matched, kernels.propagate_tokens]


def inputs(size, dtype=torch.float64):
    frames, keyframes, places, channels, branches, d = size
    generator = torch.Generator().manual_seed(3)

    def drawn(*shape):
        # Rounded once, so that all types see the same neighbours.
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    past, future = (torch.randint(keyframes, (frames,), generator=generator) for _ in range(2))
    return (drawn(frames, places, channels), drawn(keyframes, places, channels), drawn(branches, keyframes, places, d),
            past, future, torch.rand(frames, generator=generator, dtype=torch.float64))


def nearest(token: list[float], others: list[list[float]]) -> int:
    """argmin of 1 - cos, the first of equals."""

    def distance(other):
        dot = sum(a * b for a, b in zip(token, other, strict=True))
        return 1 - dot / math.sqrt(sum(a * a for a in token) * sum(b * b for b in other))

    return min(range(len(others)), key=lambda q: distance(others[q]))


def spelt_out(features, key_features, tokens, past, future, weight):
    out = torch.empty(len(tokens), *features.shape[:2], tokens.shape[-1], dtype=torch.float64)
    for i, frame in enumerate(features.double().tolist()):
        for p, token in enumerate(frame):
            earlier, later = (tokens[:, k[i], nearest(token, key_features[k[i]].double().tolist())].double()
                              for k in (past, future))  # fmt: skip
            out[:, i, p] = weight[i] * later + (1 - weight[i]) * earlier
    return out


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_equations_4_and_5_to_the_letter(form, size, dtype):
    given = inputs(size, dtype)
    out = form(*given)
    assert out.dtype == dtype
    assert_close(out, spelt_out(*given))


@pytest.mark.parametrize("form", FORMS)
def test_one_neighbour_stands_for_both(form):
    features, key_features, tokens, past, _, weight = inputs(SIZES[1])
    assert_close(form(features, key_features, tokens, past, past, weight),
                 spelt_out(features, key_features, tokens, past, past, torch.zeros(5)))


def test_gradients_reach_the_tokens():
    features, key_features, tokens, past, future, weight = inputs(SIZES[1])
    found = []
    for form in FORMS[:2]:
        given = tokens.clone().requires_grad_()
        form(features, key_features, given, past, future, weight).square().sum().backward()
        found.append(given.grad)
    assert found[0].abs().max() > 0
    assert_close(found[1], found[0])


def test_few_similarities_are_held_at_a_time(monkeypatch):
    given = inputs(SIZES[1])
    monkeypatch.setattr("steadyedit.kernels.token_propagation.matched.MOST", 1)
    assert_close(kernels.propagate_tokens_matched(*given), spelt_out(*given))


def test_shapes_that_do_not_fit():
    features, key_features, tokens, past, future, weight = inputs(SIZES[1])
    with pytest.raises(ValueError, match="^token propagation: features .* do not fit each other"):
        kernels.propagate_tokens(features, key_features[:, 1:], tokens, past, future, weight)
    with pytest.raises(ValueError, match="are not one for each of 5 frames"):
        kernels.propagate_tokens(features, key_features, tokens, past[1:], future, weight)
