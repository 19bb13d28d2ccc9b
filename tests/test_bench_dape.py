"""The bench of DAPE on untrained toy models: every base and variant runs, what it prints is what it writes."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from PIL import Image
from steadyedit.benchmarks.common.cases import World, quiet_backend
from steadyedit.benchmarks.common.claims import DAPE_CLAIMS
from steadyedit.benchmarks.common.edited import Settings as Common
from steadyedit.benchmarks.common.edited import scaled
from steadyedit.benchmarks.dape import run as dape
from steadyedit.benchmarks.dape.methods import BASES, METHODS, VARIANTS, Bench, Settings
from steadyedit.benchmarks.dape.peft_rivals import RIVALS, tune_rival
from steadyedit.methods.dape.recipes import ADAPTER_TUNING, NORM_TUNING
from steadyedit.methods.registry import build_on
from steadyedit.methods.tuning import TuneRecipe
from steadyedit.vision import metrics
from tiny_editor import BACKEND, normal, text, tiny
from tolerances import FLOAT32, FLOAT32_STEP, NETWORK

QUICK = Settings(Common(recipe=TuneRecipe(steps=1, learning_rate=1e-4), steps=2, guidance=3.0), scale=0.005)


@pytest.fixture(scope="module")
def world():
    """Random weights, true shapes."""
    from steadyedit.backends.diffusers import DiffusersModel
    from steadyedit.backends.diffusers.encoders import Autoencoder, TextEncoder
    from steadyedit.toyworld import models

    torch.manual_seed(0)
    names = ("unet", "text_encoder", "vae", "classifier", "clip")
    built = {name: models.BUILDERS[name]().eval().requires_grad_(False) for name in names}
    return World(
        quiet_backend(),
        DiffusersModel(built["unet"]),
        TextEncoder(built["text_encoder"], models.tokenize),
        Autoencoder(built["vae"]),
        built["classifier"],
        built["clip"],
    )


def test_rows_of_the_papers_tables():
    assert {"base", "norm-tune", "visual-adapter", "one-stage", "dape", "dape-mse"} <= set(METHODS)
    assert {name for name in METHODS if name.startswith("positions-")} == {
        "positions-1-7", "positions-1267", "positions-3-5", "positions-1-3", "positions-5-7"}  # fmt: skip
    assert set(METHODS) == set(VARIANTS) | set(RIVALS) and not set(VARIANTS) & set(RIVALS)
    assert {name for _, _, _, pairs in DAPE_CLAIMS for pair in pairs for name in pair} <= set(METHODS)
    assert {key for _, key, _, _ in DAPE_CLAIMS} == set(dape.PAPER)


def test_fewer_steps_are_longer_ones():
    recipe = scaled(NORM_TUNING, 0.1, seed=3)
    assert recipe.steps == 40 and recipe.learning_rate == pytest.approx(5e-4) and recipe.seed == 3
    assert scaled(ADAPTER_TUNING, 1.0) == ADAPTER_TUNING


def test_the_whole_run_writes_what_it_prints(world, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(dape, "FRAMES", 3)
    monkeypatch.setattr(dape, "SIZE", 64)
    path = tmp_path / "dape.json"
    methods = ["norm-tune", "dape", "lora"]
    dape.main(1, methods, path, ["per-frame", "tune-a-video-per-frame"], settings=QUICK, world=world)
    report = json.loads(path.read_text())
    assert report["meta"]["interpolator"] == report["meta"]["flow"] == "true flow"
    assert list(report["meta"]["paper"].values()) == [
        "CLIP-Frame", "Interpolation Error", "Interpolation PSNR", "Warping Error", "CLIP-Text"]  # fmt: skip
    pairs = [(base, method) for base in ("per-frame", "tune-a-video-per-frame") for method in ("base", *methods)]
    assert [(row["base"], row["method"]) for row in report["rows"]] == pairs
    for row in report["rows"]:
        assert set(row) == {"base", "method", *dape.KEYS, *(f"{key}_ci" for key in dape.KEYS)}
        assert all(math.isfinite(row[key]) for key in dape.KEYS)
        assert (row["trained"] == 0) == (row["method"] == "base")
    assert report["rows"][2]["trained"] > report["rows"][1]["trained"]
    assert {claim["base"] for claim in report["claims"]} == {"per-frame", "tune-a-video-per-frame"}
    said = capsys.readouterr().out
    with Image.open(path.with_suffix(".jpg")) as sheet:  # source, two bases without and with DAPE, truth
        assert sheet.height > 6 * 80
    assert "\nper-frame:\n" in said and "| dape |" in said and "DAPE warps better: dape - base" in said

    # What is finished is not measured again.
    monkeypatch.setattr(dape, "Bench", None)
    again = dape.main(1, methods, path, ["per-frame", "tune-a-video-per-frame"], settings=QUICK, world=world)
    assert again["clips"] == report["clips"]
    with pytest.raises(ValueError, match="was measured with other settings"):
        dape.main(1, methods, path, ["per-frame"], settings=replace(QUICK, scale=0.01), world=world)


def test_stage_1_is_trained_once_for_all_that_share_it(world, monkeypatch):
    from steadyedit.benchmarks.dape import methods as dape_methods

    case, calls = next(world.cases(1, 2, 64)), []
    run_stage = dape_methods.run_stage
    monkeypatch.setattr(dape_methods, "run_stage", lambda *a, **k: calls.append(a[4]) or run_stage(*a, **k))
    bench = Bench(world, case, "per-frame", QUICK, 0)
    for method in ("norm-tune", "dape", "positions-3-5", "dape-mse"):
        bench._trained(method)
    assert [len(stage.methods) for stage in calls] == [1] * 5
    assert sum("norm-tune" in stage.methods for stage in calls) == 2


def test_bases_with_the_plain_model_train_it_once(world, monkeypatch):
    from steadyedit.benchmarks.dape import methods as dape_methods

    case, calls, known = next(world.cases(1, 4, 64)), [], {}
    for name in ("run_stage", "tune_rival"):
        plain = getattr(dape_methods, name)
        monkeypatch.setattr(dape_methods, name, lambda *a, plain=plain, **k: calls.append(plain) or plain(*a, **k))
    for base in ("per-frame", "rave", "flickering", "tune-a-video-per-frame"):
        bench = Bench(world, case, base, QUICK, 0, known)
        assert bench._trained("dape")[0] is bench._trained("dape")[0] and bench._trained("adapter")[2]
    assert len(calls) == 2 * (2 + 1)  # of the plain model and of Tune-A-Video: two stages, a rival


def test_frames_of_the_flickering_base_have_noise_of_their_own(world):
    case = next(world.cases(1, 4, 64))
    still = replace(case, samples=case.samples[:1].expand(4, -1, -1, -1).clone())

    def spread(base, eta):
        return Bench(world, still, base, replace(QUICK, eta=eta), 0).edit("base")[0].frames.std(0).max()

    assert spread("per-frame", 1.0) < FLOAT32_STEP and spread("flickering", 0.0) < FLOAT32_STEP
    assert 10 * FLOAT32_STEP < spread("flickering", 0.25) < spread("flickering", 1.0)


def test_simda_is_tuned_and_stays_under_the_stages(world):
    bench = Bench(world, next(world.cases(1, 4, 64)), "simda", QUICK, 0)
    (attachment,) = world.backend.attachments(bench.base.model)
    assert attachment.method == "simda" and bench.base.seconds > 0
    assert any(adapter.up.any() for adapter in attachment.outputs.values())
    edited, trained = bench.edit("dape")
    assert torch.isfinite(edited.frames).all() and trained > 0


def test_rave_samples_in_grids_under_a_controlnet(world):
    from steadyedit.benchmarks.dape.methods import _rave

    case = next(world.cases(1, 4, 64))
    base = _rave(world, case, QUICK, 0)
    assert base.model is world.model
    assert [a.method for a in world.backend.attachments(base.sampled(world.model))] == ["rave"]
    assert base.positive[0][1]["control"] is base.negative[0][1]["control"]
    edited, trained = Bench(world, case, "rave", QUICK, 0).edit("base")
    assert torch.isfinite(edited.frames).all() and trained == 0


@pytest.mark.parametrize("method", RIVALS)
def test_a_rival_starts_as_the_plain_model_and_trains_what_it_names(method):
    if method in ("lora", "norm-tuning"):
        pytest.importorskip("peft")
    model = tiny(in_channels=4, dtype=torch.float32)
    condition = [[text(1)[0][0].float(), {}]]
    for slug in ("sparse-causal", "temporal-attention"):
        model = BACKEND.attach(model, build_on(BACKEND, model, slug, {}))
    shift = {f"{site.path}.attn1.to_q.weight": 0.1 * normal(3, 16, 16).float() for site in BACKEND.sites(model)}
    model = BACKEND.add_query_deltas(model, shift)
    samples, weights = normal(5, 3, 4, 6, 6).float(), {k: v.clone() for k, v in model.unet.state_dict().items()}

    def predict(model):
        with BACKEND.training(model, BACKEND.attachments(model), condition, 3, False) as view, torch.no_grad():
            return view.predict_noise(samples, torch.tensor(300))

    recipe = TuneRecipe(steps=1, learning_rate=0.0, weight_decay=0.0, loss="huber", queries=False)
    same, trained = tune_rival(method, BACKEND, model, samples, condition, recipe)
    assert (predict(same) - predict(model)).abs().max() < FLOAT32 and trained > 0
    moved, _ = tune_rival(method, BACKEND, model, samples, condition, replace(recipe, steps=2, learning_rate=1e-2))
    assert (predict(moved) - predict(model)).abs().max() > 1e-4
    assert all(weights[name].equal(value) for name, value in model.unet.state_dict().items())
    assert not any(p.requires_grad for p in moved.unet.parameters())


def test_interpolation_along_the_flow():
    """A picture that moves by whole pixels interpolates itself; noise does not."""
    torch.manual_seed(0)
    picture, frames = torch.rand(8, 24, 3), 4
    clip = torch.stack([picture[:, 3 * t : 3 * t + 12] for t in range(frames)])
    flow = torch.zeros(frames - 1, 8, 12, 2)
    flow[..., 0] = -3
    valid = torch.zeros(frames - 1, 8, 12, dtype=torch.bool)
    valid[:, :, 3:] = True
    error, decibels = metrics.interpolation(clip, flow, valid)
    assert error < FLOAT32_STEP and decibels == 100
    step = clip + 0.1 * torch.tensor([0, 1, 0, 1]).reshape(-1, 1, 1, 1)
    error, decibels = metrics.interpolation(step, flow, valid)
    assert error == pytest.approx(0.1, rel=NETWORK) and decibels == pytest.approx(20, rel=NETWORK)
    assert metrics.interpolation(clip[:2], flow[:1], valid[:1]) is None
    assert metrics.interpolation(clip, flow, torch.zeros_like(valid)) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ["dap"]}, "^methods: there is no dap; there are base, norm-tune"),
        ({"bases": ["camel"]}, "^bases: there is no camel; there are per-frame, tune-a-video-per-frame, ei2, simda, "),
        ({"clips": 0}, "^clips: at least 1 is needed, but got 0"),
        ({"steps": 0.0}, "^steps: the scale must be above 0, but got 0.0"),
    ],
)
def test_what_there_is_not(options, message):
    with pytest.raises(ValueError, match=message):
        dape.main(**options)


def test_at_least_three_bases():
    assert set(dape.FIRST_BASES) <= set(BASES) and len(dape.FIRST_BASES) >= 3
