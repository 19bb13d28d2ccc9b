"""EI2's exact properties, and its two blocks against the paper's equations written out."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from doubles import clip, condition, predict, randomised, with_methods
from steadyedit.methods.attachment import BlockSite, FrameLayout
from steadyedit.methods.ei2.ffam import FineCoarseMixing
from steadyedit.methods.ei2.spectral import spectrally_normalised
from steadyedit.methods.ei2.stam import STAM
from steadyedit.methods.registry import build, check_size
from tolerances import FLOAT32, FLOAT32_STEP, FLOAT64, assert_close

LAYOUT = FrameLayout(branches=2, frames=3, height=2, width=5)
CHANNELS, HEADS = 12, 3
SITES = [BlockSite(f"{stage}.1.transformer_blocks.0", CHANNELS, HEADS) for stage in ("input_blocks.1", "middle_block")]
IDENTITY_NORMS = [("center", True), ("center", False), ("instance", True), ("layer", False), ("none", False)]


def tokens(dtype=torch.float64, layout=LAYOUT, seed=1):
    shape = (layout.branches * layout.frames, layout.height * layout.width, CHANNELS)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def stam(seed=0, dtype=torch.float64, scale=1.0, **options):
    """A STAM with every weight random."""
    generator = torch.Generator().manual_seed(seed)
    module = STAM(CHANNELS, HEADS, **options)
    for parameter in module.parameters():
        parameter.data = scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return module.to(dtype)


def frame_mean(z, layout=LAYOUT):
    return torch.stack([part.mean(0) for part in z.split(layout.frames)])


def equation_nine(z, module, layout=LAYOUT):
    """STAM as the paper writes it, place by place: z + softmax(QK^T / sqrt d) IC(z) Wv' WL' + b."""
    wv, wl = (w / torch.linalg.svdvals(w).max() for w in (module.value, module.out))
    outs = []
    for part in z.split(layout.frames):
        places = []
        for place in part.unbind(1):
            centred = place - place.mean(0)
            q, k, v = centred @ module.query.T, centred @ module.key.T, centred @ wv.T
            mixed = []
            for q_, k_, v_ in zip(q.chunk(HEADS, -1), k.chunk(HEADS, -1), v.chunk(HEADS, -1), strict=True):
                weights = (q_ @ k_.T / math.sqrt(q_.shape[-1])).exp()
                mixed.append(weights / weights.sum(-1, keepdim=True) @ v_)
            places.append(place + torch.cat(mixed, -1) @ wl.T + module.bias)
        outs.append(torch.stack(places, 1))
    return torch.cat(outs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_stam_is_equation_nine(dtype):
    module = stam(recenter=False, scale=0.5)
    z = tokens(dtype)
    # float16 rounds projections and centred features, each once more than a kernel does.
    assert_close(module(z, LAYOUT).detach() / 3, equation_nine(z.double(), module).detach() / 3)


def test_recentring_changes_nothing_but_the_mean():
    literal, centred = stam(recenter=False), stam()
    z = tokens()
    shift = literal(z, LAYOUT) - z - literal.bias
    expected = z + centred.bias + shift - frame_mean(shift).repeat_interleave(LAYOUT.frames, 0)
    assert_close(centred(z, LAYOUT).detach(), expected.detach())


@pytest.mark.parametrize("norm", ["center", "instance"])
def test_stam_keeps_the_temporal_mean_up_to_the_bias(norm):
    module, z = stam(norm=norm, scale=2), tokens()
    out = module(z, LAYOUT)
    assert_close(frame_mean(out).detach(), (frame_mean(z) + module.bias).detach())
    assert (out - z - module.bias).abs().max() > 0.1


def test_the_literal_equation_keeps_the_mean_over_clips_only():
    """Negating the centred features negates the shift: for symmetric features it averages out."""
    module, z = stam(recenter=False, scale=2), tokens()
    mean = frame_mean(z).repeat_interleave(LAYOUT.frames, 0)
    out, mirrored = module(z, LAYOUT), module(2 * mean - z, LAYOUT)
    assert (frame_mean(out) - frame_mean(z) - module.bias).abs().max() > 0.01
    assert_close((out + mirrored).detach() / 2, (mean + module.bias).detach())


@pytest.mark.parametrize(("norm", "spectral"), IDENTITY_NORMS)
def test_stam_starts_as_the_identity_with_live_gradients(norm, spectral):
    module, z = STAM(CHANNELS, HEADS, norm=norm, spectral=spectral, recenter=False), tokens(torch.float32)
    out = module(z, LAYOUT)
    if norm in ("center", "instance"):
        # The mean of centred features is zero up to rounding.
        assert (out - z).abs().max() < FLOAT32_STEP
    else:
        assert out.equal(z)
    (out * tokens(torch.float32, seed=2)).sum().backward()
    first = module.query if norm in ("center", "instance") else module.out
    assert first.grad.abs().max() > 1e-4
    assert module.bias.grad.abs().max() > 1e-4
    # One step of an optimizer later every weight is alive.
    torch.optim.SGD([first], lr=0.1).step()
    (module(z, LAYOUT) * tokens(torch.float32, seed=2)).sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in module.parameters())


def test_stam_of_one_frame_is_its_bias():
    layout = FrameLayout(6, 1, 2, 5)
    module, z = stam(), tokens()
    assert_close(module(z, layout).detach(), (z + module.bias).detach())


@pytest.mark.parametrize("norm", ["layer", "none"])
def test_norms_that_cannot_start_as_the_identity_are_refused(norm):
    with pytest.raises(ValueError, match="needs spectral=False"):
        STAM(CHANNELS, HEADS, norm=norm)
    with pytest.raises(ValueError, match="norm: expected one of center"):
        STAM(CHANNELS, HEADS, norm="batch")


@pytest.mark.parametrize("channels", [1, 7, 64, 320])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_spectral_norm_is_one(channels, dtype):
    weight = 3 * torch.randn(channels, channels, generator=torch.Generator().manual_seed(0)).to(dtype)
    normalised = spectrally_normalised(weight)
    assert normalised.dtype == torch.float32
    assert torch.linalg.svdvals(normalised.double()).max().item() == pytest.approx(1, abs=FLOAT32)


@pytest.mark.parametrize("kind", ["random", "rank one", "zero rows", "tall"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_large_road_agrees_with_the_svd(kind, dtype):
    """Beyond 256 channels the norm is found without an SVD; the gradient is that of the norm."""
    weight = torch.randn(300, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if kind == "rank one":
        weight = torch.outer(weight[0], weight[1]) + 1e-6 * weight
    if kind == "zero rows":
        weight[5:] = 0
    if kind == "tall":
        weight = torch.cat([weight, weight.flip(0)[:80]])
    narrow = weight.to(dtype).requires_grad_()
    wide = weight.to(dtype).double().requires_grad_()
    slope = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    out, expected = spectrally_normalised(narrow), wide / torch.linalg.matrix_norm(wide, ord=2)
    (out * slope.to(dtype)).sum().backward()
    (expected * slope).sum().backward()
    assert_close(out.detach(), expected.detach(), torch.float32)
    assert_close(narrow.grad, wide.grad, torch.float32)


def test_baking_changes_no_output():
    module, z = stam(), tokens()
    before = module(z, LAYOUT)
    module.bake()
    for weight in (module.value, module.out):
        assert torch.linalg.svdvals(weight.detach()).max().item() == pytest.approx(1, abs=FLOAT64)
    assert_close(module(z, LAYOUT).detach(), before.detach())


def test_stam_gradients_agree_with_float64():
    narrow = stam(dtype=torch.float32, scale=0.5)
    wide = copy.deepcopy(narrow).double()
    z = tokens(torch.float32).requires_grad_()
    z_wide = z.detach().double().requires_grad_()
    slope = tokens(seed=3)
    (narrow(z, LAYOUT) * slope.float()).sum().backward()
    (equation_nine_recentred(z_wide, wide) * slope).sum().backward()
    assert_close(z.grad, z_wide.grad)
    for name, parameter in wide.named_parameters():
        assert_close(narrow.get_parameter(name).grad, parameter.grad, name=name)


def equation_nine_recentred(z, module):
    shift = equation_nine(z, module) - z - module.bias
    return z + module.bias + shift - frame_mean(shift).repeat_interleave(LAYOUT.frames, 0)


def test_branches_in_one_call_or_two():
    module, z = stam(), tokens()
    single = FrameLayout(1, LAYOUT.frames, LAYOUT.height, LAYOUT.width)
    apart = torch.cat([module(part, single) for part in z.split(LAYOUT.frames)])
    assert_close(module(z, LAYOUT).detach(), apart.detach())


def test_initial_weights_come_from_the_seed_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build("stam", SITES, {"seed": 4}).modules.state_dict()
    assert torch.get_rng_state().equal(before)
    again, other = (build("stam", SITES, {"seed": s}).modules.state_dict() for s in (4, 5))
    assert all(first[name].equal(again[name]) for name in first)
    assert not all(first[name].equal(other[name]) for name in first)


def test_ffam_of_one_frame_is_self_attention():
    _, model, attached = with_methods("ffam")
    samples = clip(1)
    assert_close(predict(attached, samples, condition()), predict(model, samples, condition()))


def test_ffam_with_ratio_one_is_full_attention():
    samples = clip()
    _, _, fine = with_methods("ffam", ffam={"ratio": 1})
    _, _, full = with_methods("full-attention")
    assert_close(predict(fine, samples, condition()), predict(full, samples, condition()))


def test_ffam_clamps_where_a_deep_map_is_small():
    """On a 2 x 2 map ratio 4 averages the whole map, like ratio 2."""
    q, k, v = (tokens(layout=FrameLayout(1, 3, 2, 2), seed=s) for s in range(3))
    layout = FrameLayout(1, 3, 2, 2)
    assert FineCoarseMixing(4)(q, k, v, HEADS, layout).equal(FineCoarseMixing(2)(q, k, v, HEADS, layout))


def test_a_ratio_beyond_the_latent_is_named():
    attachments = [build("ffam", SITES, {"ratio": 9})]
    check_size(attachments, 4, 9)
    with pytest.raises(ValueError, match=r"ratio: 9 is larger than the largest feature map \(4 x 8\); use 8 or less"):
        check_size(attachments, 4, 8)


@pytest.mark.parametrize(
    ("blocks", "stages"),
    [("all", {"input", "middle", "output"}), ("down", {"input"}), ("middle", {"middle"}), ("up", {"output"})],
)
def test_ffam_touches_the_blocks_it_is_told(blocks, stages):
    backend, model, _ = with_methods()
    attachment = build("ffam", backend.sites(model), {"blocks": blocks})
    assert {path.split("_")[0] for path in attachment.sites} == stages


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"ratio": 0}, "ratio: expected 1 or more"),
        ({"blocks": "left"}, "blocks: expected one of all, down"),
        ({"size": 3}, "method ffam: settings"),
    ],
)
def test_wrong_settings_of_ffam_are_named(config, message):
    with pytest.raises(ValueError, match=message):
        build("ffam", SITES, config)


def test_ei2_in_one_call_or_two():
    _, _, attached = with_methods("stam", "ffam")
    attached = randomised(attached)
    both = torch.cat([clip(seed=1), clip(seed=2)])
    apart = torch.cat([predict(attached, part, condition()) for part in both.split(3)])
    assert_close(predict(attached, both, condition(), branches=2), apart)
