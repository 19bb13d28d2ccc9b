"""SimDA's parts, against the published computation written with PyTorch's own layers.

Authors' code: hidden = temporal(hidden); then the transformer, in whose blocks
a = attn1(norm1(h)), h = a + Up(GELU(Down(a))) + h; h = attn2(norm2(h)) + h; h = ff(norm3(h)) + h + Up(GELU(Down(h))).
"""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from doubles import clip, condition, predict, with_methods
from einops import rearrange
from steadyedit.backends.diffusers import DiffusersBackend, DiffusersModel
from steadyedit.backends.diffusers.patching import Batch, attached
from steadyedit.backends.diffusers.paths import locate
from steadyedit.methods.attachment import Attachment, FrameLayout
from steadyedit.methods.registry import build
from steadyedit.methods.simda import SpatialAdapter, TemporalAdapter, build_simda
from steadyedit.toyworld.models import UNET_CONFIG, build_unet
from test_kernels_frame_attention import latent_shift
from tolerances import FLOAT64_CHAIN, assert_close
from torch import nn

BACKEND = DiffusersBackend()
LAYOUT = FrameLayout(branches=2, frames=5, height=3, width=4)
CHANNELS = 12


def random(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tokens(seed=0):
    return random(LAYOUT.branches * LAYOUT.frames, LAYOUT.height * LAYOUT.width, CHANNELS, seed=seed)


def filled(module, seed=3):
    """In float64, with weights away from their start."""
    module.double()
    for n, parameter in enumerate(module.parameters()):
        parameter.data = 0.3 * random(*parameter.shape, seed=seed + n)
    return module


def bottleneck(module):
    """Up(GELU(Down(x))) in layers of PyTorch's, with the same weights."""
    hidden, channels = module.down.shape
    layers = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels)).double()
    for layer, weight, bias in ((layers[0], module.down, module.down_bias), (layers[2], module.up, module.up_bias)):
        layer.weight.data, layer.bias.data = weight.detach().clone(), bias.detach().clone()
    return layers


def across_frames(module):
    """Up(DWConv3D(Down(x))) in layers of PyTorch's, with the same weights, on [branches, c, frames, h, w]."""
    hidden, channels = module.down.shape
    layers = nn.Sequential(nn.Conv3d(channels, hidden, 1),
                           nn.Conv3d(hidden, hidden, (3, 1, 1), padding="same", groups=hidden),
                           nn.Conv3d(hidden, channels, 1)).double()  # fmt: skip
    names = (("down", "down_bias"), ("conv", "conv_bias"), ("up", "up_bias"))
    for layer, (weight, bias) in zip(layers, names, strict=True):
        layer.weight.data = getattr(module, weight).detach().reshape(layer.weight.shape).clone()
        layer.bias.data = getattr(module, bias).detach().clone()
    return layers


def as_clips(z, layout):
    sides = {"branches": layout.branches, "height": layout.height}
    return rearrange(z, "(branches frames) (height width) c -> branches c frames height width", **sides)


def test_spatial_adapters():
    z, before, slope = tokens().requires_grad_(), tokens(1).requires_grad_(), tokens(2)
    for module in (filled(SpatialAdapter(CHANNELS)), filled(SpatialAdapter(CHANNELS, beside=True))):
        published = bottleneck(module)
        given = (z, LAYOUT, before) if module.beside else (z, LAYOUT)
        out, expected = module(*given), z + published(before if module.beside else z)
        assert_close(out, expected)
        found = torch.autograd.grad((out * slope).sum(), (*module.parameters(), z))
        truth = torch.autograd.grad((expected * slope).sum(), (*published.parameters(), z))
        for a, b in zip(found, truth, strict=True):
            assert_close(a, b)


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_temporal_adapters(frames):
    layout = replace(LAYOUT, frames=frames)
    z, slope = tokens()[: 2 * frames].requires_grad_(), tokens(2)[: 2 * frames]
    module = filled(TemporalAdapter(CHANNELS))
    published = across_frames(module)
    out, expected = module(z, layout), as_clips(z, layout) + published(as_clips(z, layout))
    assert_close(as_clips(out, layout), expected)
    found = torch.autograd.grad((out * slope).sum(), (*module.parameters(), z))
    truth = torch.autograd.grad((expected * as_clips(slope, layout)).sum(), (*published.parameters(), z))
    for a, b in zip(found, truth, strict=True):
        assert_close(a, b.reshape(a.shape))


@pytest.mark.parametrize("keys", ["official", "equation"])
def test_a_transformer_is_as_published(keys):
    """All three parts, each in its place, in a transformer of a diffusers U-Net."""
    torch.manual_seed(0)
    unet = build_unet().eval().requires_grad_(False).double()
    located = locate(unet)[1]
    attachment = build_simda([one.site for one in locate(unet)], keys=keys)
    for tree in attachment.trees:
        filled(tree)
    seen = []

    def look(module, args, kwargs, out):
        seen.append((args[0], kwargs["encoder_hidden_states"], out[0]))

    hook = located.transformer.register_forward_hook(look, with_kwargs=True)
    x, text = random(10, 4, 8, 6, seed=7), random(10, 77, UNET_CONFIG["cross_attention_dim"], seed=8)
    with torch.no_grad(), attached(unet, [attachment], {}, Batch(branches=2, frames=5)):
        unet(x, torch.tensor(300), encoder_hidden_states=text)
    hook.remove()
    (entering, text, found), site = seen[0], located.site
    height, width = entering.shape[-2:]
    layout = FrameLayout(2, 5, height, width)
    expected = published_transformer(located, attachment, entering, text, layout, keys == "equation")
    assert (found - expected).abs().max() < FLOAT64_CHAIN * expected.abs().max()
    assert not any("forward" in m.__dict__ or m._forward_pre_hooks for m in unet.modules()), site


def published_transformer(located, attachment, entering, text, layout, own):
    transformer, block, key = located.transformer, located.block, located.site.key
    temporal = across_frames(attachment.inputs[located.site.transformer_key])
    of_attention, of_feed_forward = (bottleneck(attachment.outputs[f"{key}/{part}"]) for part in ("attn1", "ff"))
    with torch.no_grad():
        clips = rearrange(entering, "(b f) c h w -> b c f h w", f=layout.frames)
        residual = rearrange(clips + temporal(clips), "b c f h w -> (b f) c h w")
        normed = transformer.norm(residual)
        if transformer.use_linear_projection:
            h = transformer.proj_in(normed.flatten(2).transpose(1, 2))
        else:
            h = transformer.proj_in(normed).flatten(2).transpose(1, 2)
        n, attention = block.norm1(h), block.attn1
        mixed = latent_shift(attention.to_q(n), attention.to_k(n), attention.to_v(n), attention.heads, layout.frames,
                             layout.height, layout.width, own)  # fmt: skip
        a = attention.to_out[0](mixed)
        h = a + of_attention(a) + h
        h = block.attn2(block.norm2(h), encoder_hidden_states=text) + h
        h = block.ff(block.norm3(h)) + h + of_feed_forward(h)
        if transformer.use_linear_projection:
            h = transformer.proj_out(h).transpose(1, 2).unflatten(-1, (layout.height, layout.width))
        else:
            h = transformer.proj_out(h.transpose(1, 2).unflatten(-1, (layout.height, layout.width)))
        return h + residual


@pytest.mark.parametrize("keys", ["official", "equation"])
def test_the_adapters_start_as_the_identity_to_the_bit(keys):
    backend, model, with_all = with_methods("simda", simda={"keys": keys})
    (attachment,) = backend.attachments(with_all)
    shift = Attachment("shift", mixing=attachment.mixing, sites=attachment.sites)
    alone = predict(backend.attach(model, shift), clip(6), condition())
    assert predict(with_all, clip(6), condition()).equal(alone)
    assert not alone.allclose(predict(model, clip(6), condition()))


def test_a_single_frame_starts_as_the_plain_model():
    _, model, with_all = with_methods("simda")
    assert_close(predict(with_all, clip(1), condition()), predict(model, clip(1), condition()))


def test_it_trains_what_the_paper_says():
    """24 million numbers on Stable Diffusion 1.x, in 16 transformers."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768)
    attachment = build_simda([located.site for located in locate(unet)])
    count = sum(parameter.numel() for tree in attachment.trees for parameter in tree.parameters())
    assert 24e6 < count < 25e6 and len(attachment.inputs) == 16 and len(attachment.outputs) == 32
    assert attachment.queries == ()


def test_the_seed_decides_the_start():
    sites = BACKEND.sites(DiffusersModel(build_unet()))
    first, again, other = (build("simda", sites, {"seed": seed}).trees for seed in (0, 0, 1))
    assert all(a.state_dict()[n].equal(b.state_dict()[n]) for a, b in zip(first, again) for n in a.state_dict())
    assert not all(a.state_dict()[n].equal(b.state_dict()[n]) for a, b in zip(first, other) for n in a.state_dict())


def test_several_blocks_of_one_transformer_share_its_temporal_adapter():
    site = BACKEND.sites(DiffusersModel(build_unet()))[0]
    second = replace(site, path=site.path.removesuffix("0") + "1")
    attachment = build_simda([site, second])
    assert list(attachment.inputs) == [site.transformer_key] and len(attachment.outputs) == 4


def test_computing_blocks_again_changes_no_gradient():
    torch.manual_seed(0)
    unet = build_unet().eval().requires_grad_(False)
    attachment = build_simda([located.site for located in locate(unet)])
    for tree in attachment.trees:
        for n, parameter in enumerate(tree.parameters()):
            parameter.data = 0.1 * random(*parameter.shape, seed=n).float()
    x, text = random(3, 4, 8, 6, seed=7).float(), random(3, 77, UNET_CONFIG["cross_attention_dim"], seed=8).float()
    found = []
    for recompute_from in (None, 0):
        with attached(unet, [attachment], {}, Batch(frames=3), recompute_from):
            out = unet(x, torch.tensor(300), encoder_hidden_states=text).sample
            parameters = [p for tree in attachment.trees for p in tree.parameters()]
            found.append(torch.autograd.grad(out.square().sum(), parameters))
    assert all(a.equal(b) for a, b in zip(*found, strict=True))


def test_other_keys_are_refused():
    with pytest.raises(ValueError, match="keys: expected one of official, equation, but got 'own'"):
        build("simda", [], {"keys": "own"})


def test_with_trees_exchanges_all_of_them():
    """As for the copies that a host makes for its other devices."""
    attachment = build_simda(BACKEND.sites(DiffusersModel(build_unet())))
    copies = [copy.deepcopy(tree) for tree in attachment.trees]
    assert len(copies) == 2 and all(a is b for a, b in zip(attachment.with_trees(copies).trees, copies, strict=True))
