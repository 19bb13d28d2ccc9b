"""AnyV2V: what is taken over from the source, its exact cases, and the network as it was."""

from __future__ import annotations

import pytest
import torch
from steadyedit.backends.diffusers.anyv2v import WanNetwork, turned
from steadyedit.backends.diffusers.video import DiffusersVideoModel, velocity
from steadyedit.methods.anyv2v import Features, Injection, edit, injected_attention, injected_blocks
from tolerances import NETWORK, assert_close

FRAMES, CELLS = 3, 4


@pytest.fixture(scope="module")
def model():
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    network = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=16, in_channels=36, out_channels=16,
        text_dim=8, freq_dim=16, ffn_dim=32, num_layers=4, cross_attn_norm=True, qk_norm="rms_norm_across_heads",
    ).eval().requires_grad_(False)  # fmt: skip
    return DiffusersVideoModel(network, (0.0,) * 16, (1.0,) * 16)


def condition(seed):
    """A text and a first frame."""
    draw = torch.Generator().manual_seed(seed)
    latent = torch.randn(1, 16, FRAMES, CELLS, CELLS, generator=draw)
    mask = torch.ones(1, 4, FRAMES, CELLS, CELLS)
    mask[:, :, 0] = 0
    extra = {"concat_latent_image": latent, "concat_mask": mask}
    return [[torch.randn(1, 5, 8, generator=draw), extra]]


def latent(seed):
    return torch.randn(1, 16, FRAMES, CELLS, CELLS, generator=torch.Generator().manual_seed(seed))


def taken(**wanted):
    return {name: wanted.get(name, False) for name in ("features", "spatial", "temporal")}


def test_published_shares_and_the_part_of_the_network():
    assert [name for name, on in Injection().at(9, 50).items() if on] == ["features", "spatial", "temporal"]
    assert [name for name, on in Injection().at(10, 50).items() if on] == ["temporal"]
    assert not any(Injection().at(25, 50).values())
    # The authors' twelve attentions of the decoder, of which eight: of 24 blocks the last 8.
    assert injected_blocks(24) == (16, range(16, 24)) and injected_blocks(8) == (5, range(5, 8))
    for wrong in ({"features": 1.1}, {"temporal": -0.1}, {"skipped": -1}):
        with pytest.raises(ValueError, match=f"^{next(iter(wrong))}: expected"):
            Injection(**wrong)


@pytest.mark.parametrize(("spatial", "temporal"), [(False, False), (True, False), (False, True), (True, True)])
def test_attention_against_its_definition(spatial, temporal):
    draw = torch.Generator().manual_seed(0)
    q, k, v, theirs_q, theirs_k = (torch.randn(1, 6, 2, 4, generator=draw, dtype=torch.float64) for _ in range(5))
    expected = torch.zeros_like(v)
    for head in range(2):
        logits = torch.empty(6, 6, dtype=torch.float64)
        for i in range(6):
            for j in range(6):
                source = spatial if i // 2 == j // 2 else temporal
                a, b = (theirs_q, theirs_k) if source else (q, k)
                logits[i, j] = a[0, i, head] @ b[0, j, head] / 2
        expected[0, :, head] = logits.softmax(-1) @ v[0, :, head]
    assert_close(injected_attention(q, k, v, theirs_q, theirs_k, 3, spatial, temporal), expected)


def test_the_source_led_by_itself_is_the_source(model):
    """On its own path nothing changes, whatever is taken over; and the network is left as it was."""
    network, x, sigma = WanNetwork(model), latent(1), torch.tensor(0.6)
    before = {name: value.clone() for name, value in model.transformer.state_dict().items()}
    with torch.no_grad():
        plain = velocity(model, x, sigma, condition(0))
        kept = network.reading(x, sigma, condition(0))
        assert sorted(kept.queries) == sorted(kept.keys) == [2, 3] and list(kept.branches) == [2]
        for wanted in (taken(), taken(spatial=True, temporal=True), taken(temporal=True), taken(spatial=True),
                       taken(features=True, spatial=True, temporal=True)):  # fmt: skip
            found = network.injected(x, sigma, condition(0), kept, wanted)
            assert torch.allclose(found, plain, atol=NETWORK), wanted
            other = network.injected(latent(2), sigma, condition(3), kept, wanted)
            same = torch.allclose(other, velocity(model, latent(2), sigma, condition(3)), atol=NETWORK)
            assert same == (not any(wanted.values())), wanted
        assert torch.equal(velocity(model, x, sigma, condition(0)), plain)
    assert all(torch.equal(before[name], value) for name, value in model.transformer.state_dict().items())
    assert not any("forward" in module.__dict__ for module in model.transformer.modules())


def test_an_error_leaves_the_network_as_it_was(model):
    with pytest.raises(KeyError):
        WanNetwork(model).injected(latent(1), torch.tensor(0.5), condition(0), Features(), taken(spatial=True))
    assert not any("forward" in module.__dict__ for module in model.transformer.modules())


def test_rotation_keeps_lengths_and_turns_by_the_angle():
    angle = torch.rand(1, 5, 1, 4)
    cos, sin = (f(angle).repeat_interleave(2, -1) for f in (torch.cos, torch.sin))
    x = torch.randn(1, 5, 3, 8)
    expected = torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (4, 2))) * torch.polar(torch.ones(()), angle))
    assert_close(turned(x, cos, sin), expected.flatten(-2))


def test_an_unedited_first_frame_gives_the_source_back(model):
    """The sampling's first-order steps lose less the finer they are; what is taken over loses nothing beside."""
    source, network = latent(4), WanNetwork(model)

    def lost(steps, **shares):
        sigmas = torch.linspace(1, 0, steps + 1)
        out = edit(network, source, sigmas, condition(0), condition(0), injection=Injection(**shares))
        return float((out - source).abs().max())

    everything = dict.fromkeys(("features", "spatial", "temporal"), 1.0)
    coarse, fine, plain = lost(4, **everything), lost(32, **everything), lost(32, **dict.fromkeys(everything, 0.0))
    assert fine < coarse / 4 and fine <= plain


def test_every_step_is_reported_and_bad_input_is_named(model):
    network, source, done = WanNetwork(model), latent(4), []
    levels = torch.tensor([1.0, 0.5, 0.0])
    edit(network, source, levels, condition(0), condition(1), report=done.append)
    assert done == [1, 2, 3, 4, 6]
    with pytest.raises(ValueError, match="^skipped: 2 of 2 steps leave none"):
        edit(network, source, levels, condition(0), condition(1), injection=Injection(skipped=2))
    with pytest.raises(ValueError, match="^guidance: 9 guides away from a negative prompt"):
        edit(network, source, levels, condition(0), condition(1), guidance=9.0)
