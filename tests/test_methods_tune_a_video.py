"""Tune-A-Video's pair, against an implementation of its own written from the published equations.

SC-Attn: Q = W^Q z_i, K = W^K [z_1, z_(i-1)], V = W^V [z_1, z_(i-1)].
T-Attn: LayerNorm, self-attention over the frames of each place, output projection whose
weight starts at zero, residual.
"""

from __future__ import annotations

import pytest
import torch
from doubles import clip, condition, predict, with_methods
from steadyedit.methods.attachment import FrameLayout
from steadyedit.methods.tune_a_video.sparse_causal import full_mixing, sparse_causal_mixing
from steadyedit.methods.tune_a_video.temporal import TemporalAttention
from tolerances import assert_close
from torch import nn

LAYOUT = FrameLayout(branches=2, frames=4, height=2, width=3)
CHANNELS, HEADS = 12, 3


class PublishedAttention(nn.Module):
    """nn.MultiheadAttention carries the softmax: nothing of the kernels is used."""

    def __init__(self, query, key, value, out, bias):
        super().__init__()
        self.attention = nn.MultiheadAttention(CHANNELS, HEADS, batch_first=True, dtype=torch.float64)
        self.attention.in_proj_weight.data = torch.cat([query, key, value]).double()
        self.attention.in_proj_bias.data.zero_()
        self.attention.out_proj.weight.data = out.double()
        self.attention.out_proj.bias.data = bias.double()

    def forward(self, queries, keys):
        return self.attention(queries, keys, keys, need_weights=False)[0]


def random(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tokens(seed=0):
    return random(LAYOUT.branches * LAYOUT.frames, LAYOUT.height * LAYOUT.width, CHANNELS, seed=seed)


def weights():
    return [random(CHANNELS, CHANNELS, seed=s) * 0.4 for s in range(4)] + [random(CHANNELS, seed=9)]


@pytest.mark.parametrize("mixing", [sparse_causal_mixing, full_mixing])
def test_self_attention_across_frames(mixing):
    wq, wk, wv, wo, bias = weights()
    published = PublishedAttention(wq, wk, wv, wo, bias)
    z = tokens()
    out = mixing(z @ wq.T, z @ wk.T, z @ wv.T, HEADS, LAYOUT) @ wo.T + bias
    expected = []
    for frames in z.split(LAYOUT.frames):
        for i, frame in enumerate(frames):
            seen = frames if mixing is full_mixing else frames[[0, max(i - 1, 0)]]
            expected.append(published(frame[None], seen.reshape(1, -1, CHANNELS))[0])
    assert_close(out, torch.stack(expected).detach())


def test_temporal_attention():
    module = TemporalAttention(CHANNELS, HEADS).double()
    tensors = weights()
    for parameter, value in zip(
        (module.query, module.key, module.value, module.out, module.bias), tensors, strict=True
    ):
        parameter.data = value
    published, norm = PublishedAttention(*tensors), nn.LayerNorm(CHANNELS, dtype=torch.float64)
    z = tokens().requires_grad_()
    wide = z.detach().clone().requires_grad_()
    out = module(z, LAYOUT)
    expected = []
    for frames in wide.split(LAYOUT.frames):
        places = frames.transpose(0, 1)
        expected.append((places + published(norm(places), norm(places))).transpose(0, 1))
    expected = torch.cat(expected)
    assert_close(out.detach(), expected.detach())
    slope = tokens(seed=1)
    (out * slope).sum().backward()
    (expected * slope).sum().backward()
    assert_close(z.grad, wide.grad)
    projections = published.attention.in_proj_weight.grad.chunk(3)
    for name, truth in zip(("query", "key", "value"), projections, strict=True):
        assert_close(getattr(module, name).grad, truth, name=name)
    assert_close(module.out.grad, published.attention.out_proj.weight.grad, name="out")
    assert_close(module.bias.grad, published.attention.out_proj.bias.grad, name="bias")


def test_temporal_attention_starts_as_published():
    """Only the output weight is zero: the start is a constant shift by the output bias."""
    module, z = TemporalAttention(CHANNELS, HEADS), tokens().float()
    assert not module.out.any() and module.bias.any()
    assert module(z, LAYOUT).equal(z + module.bias)
    module(z, LAYOUT).square().sum().backward()
    assert module.out.grad.abs().max() > 1e-3


def test_the_norm_has_no_parameters():
    assert {name for name, _ in TemporalAttention(CHANNELS, HEADS).named_parameters()} == {
        "query", "key", "value", "out", "bias"
    }  # fmt: skip


def test_first_frame_keeps_its_self_attention():
    """Frame 0 sees only itself, twice, so that the first block leaves it as it was."""
    _, model, attached = with_methods("sparse-causal")
    samples = clip(1)
    assert_close(predict(attached, samples, condition()), predict(model, samples, condition()))
