"""The diffusers backend: names of blocks, attaching without a trace, branches, and the road that trains."""

from __future__ import annotations

import copy

import pytest
import torch
from steadyedit.backends import of
from steadyedit.backends.diffusers import Denoiser, DiffusersBackend, DiffusersModel
from steadyedit.backends.diffusers.patching import Batch, attached
from steadyedit.backends.diffusers.paths import locate
from steadyedit.methods.attachment import Attachment, FrameLayout
from steadyedit.methods.ei2 import build_ffam, build_stam
from steadyedit.methods.simda import build_simda
from steadyedit.methods.tune_a_video import build_full_attention, build_sparse_causal, build_temporal_attention
from steadyedit.toyworld.models import UNET_CONFIG, build_unet
from tolerances import FLOAT32, FLOAT32_NEAREST, NETWORK, RUN

FRAMES, SIDE = 3, 8
BACKEND = DiffusersBackend()


class Quiet:
    def update(self, value, preview=None, **numbers):
        """Shows nothing."""


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return build_unet().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def model(unet):
    return DiffusersModel(unet)


def text(seed: int, texts: int = 1):
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(texts, 77, UNET_CONFIG["cross_attention_dim"], generator=generator), {}]]


def clip(seed: int = 5, frames: int = FRAMES):
    return torch.randn(frames, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def predict(model, frames: int = FRAMES, **options):
    denoise = Denoiser(model, text(1), text(2), 7.5, frames=frames, **options)
    with torch.no_grad():
        return denoise(clip(frames=frames), torch.full((frames,), 3.0))


def moved(attachment):
    """The attachment with weights away from their start, so that it does something."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in (p for tree in attachment.trees for p in tree.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return attachment


def traces(unet) -> list:
    """Whatever a patch could leave behind."""
    return [
        (name, sorted(k for k in m.__dict__ if k == "forward"), len(m._forward_pre_hooks), len(m._forward_hooks))
        for name, m in unet.named_modules()
    ]


EVERY = {
    "stam": build_stam, "ffam": build_ffam, "sparse-causal": build_sparse_causal,
    "temporal-attention": build_temporal_attention, "full-attention": build_full_attention,
    "simda": build_simda,
}  # fmt: skip


def test_block_names_of_stable_diffusion_1():
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        full = UNet2DConditionModel(cross_attention_dim=768)
    names = [located.site.path.removesuffix(".1.transformer_blocks.0") for located in locate(full)]
    assert names == [
        *(f"input_blocks.{i}" for i in (1, 2, 4, 5, 7, 8)), "middle_block",
        *(f"output_blocks.{i}" for i in range(3, 12)),
    ]  # fmt: skip
    own = {module: name for name, module in full.named_modules()}
    assert [own[located.block] for located in locate(full)][:3] == [
        "down_blocks.0.attentions.0.transformer_blocks.0", "down_blocks.0.attentions.1.transformer_blocks.0",
        "down_blocks.1.attentions.0.transformer_blocks.0",
    ]  # fmt: skip
    order = [name.split(".")[0] for name in (own[located.block] for located in locate(full))]
    assert order == ["down_blocks"] * 6 + ["mid_block"] + ["up_blocks"] * 9


def test_sites_refuse_what_is_no_unet():
    with pytest.raises(TypeError, match="^model: .*Linear"):
        BACKEND.sites(DiffusersModel(torch.nn.Linear(2, 2)))
    with pytest.raises(TypeError, match="^model: .*str"):
        of("no model")


@pytest.mark.parametrize("method", EVERY)
def test_attaching_leaves_no_trace(model, method):
    before, marks = predict(model), traces(model.unet)
    other = BACKEND.attach(model, moved(EVERY[method](BACKEND.sites(model))))
    assert model.attachments == () and other.unet is model.unet
    assert not torch.equal(predict(other), before)
    assert torch.equal(predict(model), before)
    assert traces(model.unet) == marks


def test_an_error_in_the_middle_leaves_no_trace(model):
    def broken(q, k, v, heads, layout):
        raise KeyboardInterrupt

    before, marks = predict(model), traces(model.unet)
    sites = BACKEND.sites(model)
    stam = BACKEND.attach(model, build_stam(sites))
    bad = BACKEND.attach(stam, Attachment("broken", mixing=broken, sites=frozenset([sites[3].path])))
    with pytest.raises(KeyboardInterrupt):
        predict(bad)
    assert traces(model.unet) == marks and torch.equal(predict(model), before)


def test_another_librarys_forward_survives(model):
    block = locate(model.unet)[2].block

    def foreign(hidden_states, *args, **kwargs):
        return type(block).forward(block, hidden_states, *args, **kwargs) + 0.5

    block.forward = foreign
    try:
        before = predict(model)
        assert not torch.equal(predict(BACKEND.attach(model, moved(build_stam(BACKEND.sites(model))))), before)
        assert block.__dict__["forward"] is foreign
        assert torch.equal(predict(model), before)
    finally:
        del block.forward


@pytest.mark.parametrize("method", EVERY)
def test_branches_in_one_call_or_two(model, method):
    model = BACKEND.attach(model, moved(EVERY[method](BACKEND.sites(model))))
    torch.testing.assert_close(predict(model, joint=True), predict(model, joint=False), atol=2 * NETWORK, rtol=NETWORK)


def test_stam_starts_as_the_identity(model):
    torch.testing.assert_close(predict(BACKEND.attach(model, build_stam(BACKEND.sites(model)))), predict(model),
                               atol=2 * NETWORK, rtol=NETWORK)


def test_ffam_of_one_frame_is_self_attention_and_of_ratio_1_is_full(model):
    sites = BACKEND.sites(model)
    one = BACKEND.attach(model, build_ffam(sites))
    torch.testing.assert_close(predict(one, frames=1), predict(model, frames=1), atol=2 * NETWORK, rtol=NETWORK)
    fine, full = (BACKEND.attach(model, a) for a in (build_ffam(sites, ratio=1), build_full_attention(sites)))
    torch.testing.assert_close(predict(fine), predict(full), atol=2 * NETWORK, rtol=NETWORK)


def test_layout_follows_the_feature_map(model):
    seen = []

    def mixing(q, k, v, heads, layout):
        seen.append((layout, q.shape))
        return q

    sites = BACKEND.sites(model)
    wide = torch.randn(2, 4, 8, 16)
    denoise = Denoiser(BACKEND.attach(model, Attachment("seen", mixing=mixing, sites=frozenset(s.path for s in sites))),
                       text(1), text(2), 2.0, frames=2)
    with torch.no_grad():
        denoise(wide, torch.ones(2))
    assert seen[0][0] == FrameLayout(2, 2, 8, 16) and len(seen) == len(sites)
    for site, (layout, shape) in zip(sites, seen, strict=True):
        assert shape == (4, layout.height * layout.width, site.channels)


def test_attaching_twice_and_attaching_rivals(model):
    sites = BACKEND.sites(model)
    once = BACKEND.attach(BACKEND.attach(model, build_ffam(sites)), build_stam(sites))
    again = BACKEND.attach(once, build_ffam(sites, ratio=1))
    assert [(a.method, a.config.get("ratio")) for a in again.attachments] == [("stam", None), ("ffam", 1)]
    with pytest.raises(ValueError, match="ffam already replaces .* sparse-causal"):
        BACKEND.attach(once, build_sparse_causal(sites))


def test_query_deltas_add_up_and_are_exact(model):
    located = locate(model.unet)[0]
    key = f"{located.site.path}.attn2.to_q.weight"
    delta = torch.randn_like(located.block.attn2.to_q.weight) * 0.1
    changed = BACKEND.add_query_deltas(BACKEND.add_query_deltas(model, {key: delta}), {key: delta})
    plain = copy.deepcopy(model.unet)
    locate(plain)[0].block.attn2.to_q.weight.data += 2 * delta
    torch.testing.assert_close(predict(changed), predict(DiffusersModel(plain)), atol=FLOAT32, rtol=FLOAT32)
    assert model.query_deltas == {}


def test_fingerprint_names_the_weights_and_nothing_else(unet, model):
    name = BACKEND.fingerprint(model)
    assert BACKEND.fingerprint(BACKEND.attach(model, build_stam(BACKEND.sites(model)))) == name
    other = copy.deepcopy(unet)
    assert BACKEND.fingerprint(DiffusersModel(other)) == name
    other.conv_in.bias.data[0] += 1
    assert BACKEND.fingerprint(DiffusersModel(other)) != name


def test_inversion_and_sampling_return(unet):
    # Random weights predict what no noise looks like; a smaller answer lets the fixed point converge.
    calm = copy.deepcopy(unet)
    calm.conv_out.weight.data *= 0.1
    model = DiffusersModel(calm)
    sigmas = model.schedule.ddim_sigmas(10)
    samples = clip() / model.latent_scale
    trajectory = BACKEND.invert(model, text(1), samples, sigmas.flip(0), 4, Quiet())
    assert len(trajectory) == len(sigmas) and torch.equal(trajectory[0], samples)
    back = BACKEND.sample(model, text(1), text(2), 1.0, trajectory[-1], sigmas, Quiet())
    assert (back - samples).std() < 0.02 * samples.std()


def test_conditions_that_do_not_fit(model):
    with pytest.raises(ValueError, match="^positive: holds 2 texts, but the clip has 3 frames"):
        Denoiser(model, text(1, texts=2), frames=3)
    with pytest.raises(ValueError, match="^negative: expected one condition, but got 2"):
        Denoiser(model, text(1), text(2) * 2, 3.0, frames=3)


def training_gradients(model, attachments, **options):
    noisy, target = clip(6), clip(7)
    with BACKEND.training(model, attachments, text(1), FRAMES, **options) as view:
        out = view.predict_noise(noisy, torch.tensor(500))
        loss = (out - target).square().mean()
        names, leaves = zip(*view.parameters.items(), strict=True)
        return dict(zip(names, torch.autograd.grad(loss, leaves), strict=True))


def plain_gradients(model, stam, ffam_like):
    """The same loss on a float64 copy: hooks of torch for the modules, diffusers' own processor
    for the mixing, the query weights themselves as leaves."""
    unet = copy.deepcopy(model.unet).double()
    modules = copy.deepcopy(stam.modules).double()
    leaves = {}
    sides = dict(zip((s.path for s in BACKEND.sites(model)), (8, 4, 2, 1, 2, 2, 4, 4, 8, 8), strict=True))

    class Full:
        def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **kwargs):
            frames, tokens, width = hidden_states.shape
            every = hidden_states.reshape(1, frames * tokens, width)
            projections = attn.to_q, attn.to_k, attn.to_v
            q, k, v = (project(every).unflatten(-1, (attn.heads, -1)).transpose(1, 2) for project in projections)
            weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
            return attn.to_out[0]((weights @ v).transpose(1, 2).reshape(frames, tokens, width))

    for located in locate(unet):
        path, block = located.site.path, located.block
        layout = FrameLayout(1, FRAMES, sides[path], sides[path])
        block.register_forward_hook(lambda m, a, out, s=modules[located.site.key], n=layout: s(out, n))
        block.attn1.set_processor(Full())
        for name, parameter in modules[located.site.key].named_parameters():
            leaves[f"stam.{path}.{name}"] = parameter
        for name in ffam_like.queries:
            leaves[f"queries.{path}.{name}.weight"] = block.get_submodule(name).weight.requires_grad_()
    out = unet(clip(6).double(), torch.tensor(500), text(1)[0][0].double().expand(FRAMES, -1, -1)).sample
    loss = (out - clip(7).double()).square().mean()
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def test_gradients_are_those_of_a_plain_float64_copy(model):
    sites = BACKEND.sites(model)
    stam, full = moved(build_stam(sites)), build_full_attention(sites)
    ours, plain = training_gradients(model, [stam, full]), plain_gradients(model, stam, full)
    assert ours.keys() == plain.keys() and len(plain) == len(sites) * 7
    scale = max(g.abs().max() for g in plain.values())
    for name, expected in plain.items():
        assert ours[name].dtype == torch.float32
        torch.testing.assert_close(
            ours[name].double(), expected, atol=NETWORK * float(scale), rtol=RUN, msg=lambda m, n=name: f"{n}: {m}")


def test_checkpointing_changes_no_gradient(model):
    attachments = [moved(build_stam(BACKEND.sites(model))), build_ffam(BACKEND.sites(model))]
    kept, again = (training_gradients(model, attachments, checkpointing=c) for c in (False, True))
    for name in kept:
        torch.testing.assert_close(again[name], kept[name], atol=FLOAT32_NEAREST, rtol=FLOAT32)


def test_training_leaves_the_model_as_it_was(model):
    before, marks = predict(model), traces(model.unet)
    state = {k: v.clone() for k, v in model.unet.state_dict().items()}
    model.unet.conv_in.weight.requires_grad_(True)
    try:
        with pytest.raises(KeyboardInterrupt), BACKEND.training(model, [build_stam(BACKEND.sites(model))], text(1), 3):
            assert not model.unet.conv_in.weight.requires_grad
            raise KeyboardInterrupt
        assert model.unet.conv_in.weight.requires_grad
    finally:
        model.unet.conv_in.weight.requires_grad_(False)
    assert traces(model.unet) == marks and torch.equal(predict(model), before)
    assert all(torch.equal(v, state[k]) for k, v in model.unet.state_dict().items())


def test_queries_that_are_not_trained(model):
    attachments = [build_ffam(BACKEND.sites(model), blocks="up"), build_stam(BACKEND.sites(model))]
    with BACKEND.training(model, attachments, text(1), FRAMES, queries=False) as view:
        assert all(name.startswith("stam.") for name in view.parameters)
    with BACKEND.training(model, attachments, text(1), FRAMES) as view:
        queries = [name for name in view.parameters if name.startswith("queries.")]
        # STAM tunes the cross attention's queries where it sits, FFAM both where it sits.
        expected = {f"queries.{s.path}.attn2.to_q.weight" for s in BACKEND.sites(model)}
        expected |= {f"queries.{s.path}.attn1.to_q.weight" for s in BACKEND.sites(model) if s.stage == "output"}
        assert set(queries) == expected
        assert all(not view.parameters[name].any() for name in queries)


def test_a_tuned_model_is_tuned_further_from_where_it_is(model):
    key = f"{BACKEND.sites(model)[0].path}.attn1.to_q.weight"
    weight = locate(model.unet)[0].block.attn1.to_q.weight
    tuned = BACKEND.add_query_deltas(model, {key: torch.full_like(weight, 0.05)})
    ffam = build_ffam(BACKEND.sites(model))
    with torch.no_grad(), attached(model.unet, [ffam], tuned.query_deltas, Batch(1, FRAMES)):
        expected = model.unet(clip(), torch.tensor(500), text(1)[0][0].expand(FRAMES, -1, -1)).sample
    with BACKEND.training(tuned, [ffam], text(1), FRAMES) as view:
        torch.testing.assert_close(view.predict_noise(clip(), torch.tensor(500)).detach(), expected)
