"""One table over all methods: what attaching, tuning, saving and loading must never break."""

from __future__ import annotations

import copy

import pytest
import torch
from double import DoubleModel
from doubles import METHODS, SAMPLING_ONLY, clip, condition, predict, randomised, with_methods
from steadyedit.methods.attachment import named_tensors
from steadyedit.methods.registry import BUILDERS, build, traits
from steadyedit.methods.tuning import TuneRecipe, apply_tuned, load_tuned, save_tuned, tune
from tolerances import FLOAT32_STEP, assert_close

RECIPE = TuneRecipe(steps=2, learning_rate=1e-3)
# What a method trains in modules of its own, and the attentions whose queries it trains if not both.
TRAINED = {
    "stam": {"query", "key", "value", "out", "bias"},
    "temporal-attention": {"query", "key", "value", "out", "bias"},
    "simda": {"down", "down_bias", "conv", "conv_bias", "up", "up_bias"},
    "norm-tune": {"gamma", "beta", "gamma0"},
    "visual-adapter": {"norm_weight", "norm_bias", "w0", "down", "down_bias", "conv", "up", "up_bias"},
}
QUERIES = {"stam": {"attn2"}, "temporal-attention": {"attn2"}, "simda": set(), "norm-tune": set(),
           "visual-adapter": set()}  # fmt: skip
# Without weights, and not the identity: test_methods_joint_norms.py, test_approximate_windows.py.
WITHOUT_WEIGHTS = {"joint-norms", "approximate-windows"}


def test_the_table_covers_the_registry():
    assert set(METHODS) | set(SAMPLING_ONLY) | WITHOUT_WEIGHTS == set(BUILDERS)


@pytest.mark.parametrize("method", METHODS)
def test_attaching_leaves_the_model(method):
    backend, model, attached = with_methods(method)
    weights = copy.deepcopy(model.unet.state_dict())
    before = predict(model, clip(), condition())
    predict(randomised(attached), clip(), condition())
    tune(backend, attached, clip(), condition(), RECIPE)
    assert predict(model, clip(), condition()).equal(before)
    assert all(weights[name].equal(value) for name, value in model.unet.state_dict().items())
    assert backend.attachments(model) == () and len(backend.attachments(attached)) == 1


@pytest.mark.parametrize("method", ["norm-tune", "visual-adapter"])
def test_what_adds_a_zero_starts_as_the_plain_model_to_the_bit(method):
    _, model, attached = with_methods(method)
    assert predict(attached, clip(), condition()).equal(predict(model, clip(), condition()))


def test_stam_starts_as_the_plain_model():
    _, model, attached = with_methods("stam")
    assert_close(predict(attached, clip(), condition()), predict(model, clip(), condition()).double())


@pytest.mark.parametrize("method", METHODS)
def test_one_call_or_two(method):
    _, _, attached = with_methods(method)
    attached = randomised(attached)
    both = torch.cat([clip(seed=1), clip(seed=2)])
    apart = torch.cat([predict(attached, part, condition()) for part in both.split(3)])
    assert_close(predict(attached, both, condition(), branches=2), apart)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("queries", [True, False])
def test_only_the_intended_parameters_train(method, queries):
    backend, _, attached = with_methods(method)
    if not queries and method not in TRAINED:
        with pytest.raises(ValueError, match="nothing to train"):
            tune(backend, attached, clip(), condition(), TuneRecipe(steps=1, queries=False))
        return
    tuned = tune(backend, attached, clip(), condition(), TuneRecipe(steps=1, learning_rate=1e-3, queries=queries))
    names = {name for name in tuned.weights.tensors if not name.startswith("queries.")}
    assert {name.rsplit(".", 1)[1] for name in names} == TRAINED.get(method, set())
    deltas = [name.split(".")[-3] for name in tuned.weights.tensors if name.startswith("queries.")]
    expected = QUERIES.get(method, {"attn1", "attn2"}) if queries else set()
    assert set(deltas) == expected and len(deltas) == 4 * len(expected)
    for name, tensor in tuned.weights.tensors.items():
        assert tensor.dtype == torch.float32 and not tensor.requires_grad, name


@pytest.mark.parametrize("method", METHODS)
def test_save_and_load_give_the_same_model(method, tmp_path):
    backend, model, attached = with_methods(method)
    tuned = tune(backend, attached, clip(), condition(), RECIPE)
    save_tuned(tmp_path / "tuned.safetensors", tuned.weights)
    loaded = load_tuned(tmp_path / "tuned.safetensors")
    assert loaded.metadata == tuned.weights.metadata
    assert all(loaded.tensors[name].equal(value) for name, value in tuned.weights.tensors.items())
    again = apply_tuned(backend, model, loaded)
    assert predict(again, clip(), condition()).equal(predict(tuned.model, clip(), condition()))
    assert not predict(again, clip(), condition()).allclose(predict(model, clip(), condition()), atol=FLOAT32_STEP)


@pytest.mark.parametrize("methods", [("stam", "ffam"), ("temporal-attention", "sparse-causal"), ("full-attention",),
                                     ("simda",), ("norm-tune", "visual-adapter")])  # fmt: skip
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_trained_road_has_the_gradients_of_a_float64_copy(methods, checkpointing):
    backend, _, attached = with_methods(*methods)
    attached = randomised(attached)
    slope, timestep = clip(seed=8), torch.tensor(400)

    def gradients(model, dtype):
        with backend.training(
            model, backend.attachments(model), condition(dtype=dtype), 3, True, checkpointing
        ) as view:
            out = view.predict_noise(clip().to(dtype), timestep)
            (out * slope.to(dtype)).sum().backward()
            return out.detach(), {name: p.grad for name, p in view.parameters.items()}

    narrow_out, narrow = gradients(attached, torch.float32)
    wide_model = DoubleModel(copy.deepcopy(attached.unet).double(), attached.attached)
    for attachment in backend.attachments(wide_model):
        for tree in attachment.trees:
            tree.double()
    wide_out, wide = gradients(wide_model, torch.float64)
    assert_close(narrow_out, wide_out)
    assert narrow.keys() == wide.keys() and len(wide) >= 8
    for name, gradient in wide.items():
        assert gradient.abs().max() > 0, name
        assert_close(narrow[name], gradient, name=name)


def test_an_unknown_method_is_named():
    with pytest.raises(ValueError, match="this version knows stam, ffam, .* but not 'dape'"):
        build("dape", [], {})


def test_saved_names_carry_method_and_place():
    _, _, attached = with_methods("stam")
    names = set(named_tensors(attached.attached.attachments[0]))
    assert "stam.middle_block.1.transformer_blocks.0.query" in names and len(names) == 4 * 5


@pytest.mark.parametrize("method", BUILDERS)
def test_what_a_method_says_of_itself_is_so(method):
    said, attachment = traits(method), with_methods(method)[2].attached.attachments[-1]
    assert said.mixes_frames or not attachment.mixes_frames
    assert said.changes_sampling_only == (method in SAMPLING_ONLY)
    assert said.trains_on_clip == (method in METHODS)
    assert said.mixes_frames == (method not in ("norm-tune", "visual-adapter", "prompt-to-prompt"))
    assert said.exact_in_windows == (method in ("gather-swap", "norm-tune", "visual-adapter", "prompt-to-prompt"))


def test_traits_of_an_unknown_method():
    with pytest.raises(ValueError, match="knows stam, .* but not 'other'"):
        traits("other")
