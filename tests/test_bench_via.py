"""VIA's pipeline and its benchmark on untrained toy models: every method, what is shared, the files."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import pytest
import torch
from steadyedit.benchmarks.adaptation import hard
from steadyedit.benchmarks.adaptation import run as adaptation
from steadyedit.benchmarks.common.cases import World, quiet_backend
from steadyedit.benchmarks.common.clock import timed
from steadyedit.benchmarks.common.edited import Settings as CaptionSettings
from steadyedit.benchmarks.common.plots import Panel, draw_panels
from steadyedit.benchmarks.via import flow
from steadyedit.benchmarks.via import report as via_report
from steadyedit.benchmarks.via import run as via
from steadyedit.benchmarks.via.captioned import CAPTIONED
from steadyedit.benchmarks.via.methods import (
    AT_LENGTH,
    INSTRUCT,
    LOCAL_ONLY,
    METHODS,
    Settings,
    edit,
    object_mask,
    prepare,
)
from steadyedit.benchmarks.via.texts import WORDINGS, wordings
from steadyedit.methods.tuning import TuneRecipe
from steadyedit.methods.via.adapt import AdaptRecipe
from steadyedit.methods.via.gather_swap import GatherSwap
from steadyedit.methods.via.pipeline import ViaRecipe, edit_clip, sample_edit
from steadyedit.toyworld import heldout_edits
from tolerances import NETWORK, assert_close

QUICK = Settings(ViaRecipe(
    AdaptRecipe(TuneRecipe(steps=2, learning_rate=1e-2, queries=False), rank=2, batch=1, variants=2),
    GatherSwap(group=2), seeds=(0, 1), steps=2, text_guidance=2.0, image_guidance=1.2,
), CaptionSettings(TuneRecipe(steps=1, learning_rate=1e-4), steps=1, guidance=3.0))  # fmt: skip


@pytest.fixture(scope="module")
def world():
    """Random weights, true shapes; the editor reads an image beside the noise."""
    from steadyedit.backends.diffusers import DiffusersModel
    from steadyedit.backends.diffusers.encoders import Autoencoder, TextEncoder
    from steadyedit.toyworld import models

    torch.manual_seed(0)
    built = {name: build().eval() for name, build in models.BUILDERS.items() if name in ("vae", "classifier", "clip")}
    built |= {"unet": models.build_unet(in_channels=8).eval(), "text": models.BUILDERS["text_encoder"]().eval()}
    for module in built.values():
        module.requires_grad_(False)
    return World(quiet_backend(), DiffusersModel(built["unet"]), TextEncoder(built["text"], models.tokenize),
                 Autoencoder(built["vae"]), built["classifier"], built["clip"])  # fmt: skip


@pytest.fixture(scope="module")
def case(world):
    return next(world.cases(1, 3, 64))


@pytest.fixture(scope="module")
def prepared(world, case, tmp_path_factory):
    return prepare(world, case, QUICK, 0, tmp_path_factory.mktemp("adapted"))


def results(world, case, prepared, names):
    return {name: edit(world, case, name, QUICK, prepared, 0)[0].frames for name in names}


def test_every_method_is_its_own(world, case, prepared):
    before = {name: value.clone() for name, value in world.model.unet.state_dict().items()}
    frames = results(world, case, prepared, METHODS)
    assert all(f.shape == case.truth.frames.shape and torch.isfinite(f).all() for f in frames.values())
    names = list(METHODS)
    same = [(a, b) for i, a in enumerate(names) for b in names[:i] if torch.equal(frames[a], frames[b])]
    assert not same
    assert all(torch.equal(before[name], value) for name, value in world.model.unet.state_dict().items())
    # Frames far from the mask: the blend's three kinds end on the source's own latents.
    keep = torch.nn.functional.max_pool2d(object_mask(case)[:, None], 49, 1, 24)[:, 0] == 0
    kept = world.vae.decode(case.samples)
    if keep.any():
        assert (frames["via"] - kept)[keep].abs().max() < (frames["via-no-blend"] - kept)[keep].abs().max()


def test_wordings_are_in_words_that_the_encoder_knows():
    from steadyedit.toyworld.world.edits import KINDS
    from steadyedit.toyworld.world.grammar import vocabulary

    assert set(WORDINGS) == set(KINDS)
    for _, asked in heldout_edits(20):
        said = wordings(asked, WORDINGS)
        assert said[0] == asked.instruction and len(set(said)) == len(said) > 2
        assert {word for text in said for word in text.split()} <= set(vocabulary())


def test_rivals_by_captions_have_settings_and_edits_of_their_own(world, prepared):
    case = next(world.cases(1, 2, 32))
    edited, seconds = zip(*(edit(world, case, name, QUICK, prepared, 0) for name in CAPTIONED), strict=True)
    assert all(one.frames.shape == case.truth.frames.shape and torch.isfinite(one.frames).all() for one in edited)
    assert not torch.equal(edited[0].frames, edited[1].frames)
    assert 0 < edited[0].train_seconds != prepared.adaptation_seconds and min(seconds) > 0
    assert asdict(Settings())["captioned"] == asdict(CaptionSettings.of_the_table())
    plain, dotted = (replace(case.edit, kind="texture", target=target) for target in ("plain", "dotted"))
    assert INSTRUCT.methods_of(plain, list(CAPTIONED)) == ["tune-a-video", "tune-a-video-per-frame"]
    assert INSTRUCT.methods_of(dotted, list(CAPTIONED)) == list(CAPTIONED)


def test_seconds_are_of_what_was_done(world, case, prepared):
    alone, a = edit(world, case, "via-no-blend", QUICK, prepared, 0)
    blended, b = edit(world, case, "via", QUICK, replace(prepared, inversion=replace(prepared.inversion, own=900.0)), 0)
    assert b > 900 / 3 > a > 0
    assert alone.train_seconds == blended.train_seconds == prepared.adaptation_seconds
    assert edit(world, case, "via-no-adaptation", QUICK, prepared, 0)[0].train_seconds is None


def test_one_adaptation_serves_a_clip(world, case, prepared, tmp_path):
    first, again = (prepare(world, case, QUICK, 0, tmp_path) for _ in range(2))
    assert not first.tuned.from_cache and again.tuned.from_cache
    assert first.tuned.weights.tensors.keys() == again.tuned.weights.tensors.keys()
    one, two = (results(world, case, p, ["via-no-swap"])["via-no-swap"] for p in (first, again))
    assert torch.equal(one, two)


def test_the_pipeline_is_the_sum_of_its_parts(world, case, prepared):
    """The same root and adaptation, found by the one function.

    Threads share out sums as the processor likes, and a training makes more of that: what two trainings give is
    compared by their losses, and the samples to those of the pipeline's own adaptation.
    """
    looked = []

    def choose(source, candidates, kept):
        looked.append((len(candidates), kept.shape))
        return int((candidates - prepared.root.edited).abs().sum((1, 2, 3)).argmin())

    parts = (world.backend, world.model, world.vae, case.source.frames, prepared.positive, prepared.negative, choose)
    result = edit_clip(*parts, QUICK.via, mask=prepared.mask)
    assert looked == [(2, (64, 64))]
    assert_close(result["root"].edited, prepared.root.edited)
    tuned = result["tuned"]
    assert tuned.weights.tensors.keys() == prepared.tuned.weights.tensors.keys()
    assert_close(torch.tensor(tuned.losses), torch.tensor(prepared.tuned.losses))
    assert_close(torch.stack(tuple(result["trajectory"].steps)), torch.stack(tuple(prepared.trajectory.steps)))
    expected = sample_edit(
        world.backend, tuned.model, case.samples, prepared.positive, prepared.negative, QUICK.via,
        mask=prepared.mask, trajectory=result["trajectory"],
    )  # fmt: skip
    assert_close(result["samples"], expected)
    unadapted = sample_edit(
        world.backend, world.model, case.samples, prepared.positive, prepared.negative, QUICK.via,
        mask=prepared.mask, trajectory=result["trajectory"],
    )  # fmt: skip
    assert (result["samples"] - unadapted).abs().max() > 0.01
    plain = edit_clip(*parts, replace(QUICK.via, adaptation=None, blend=None), mask=prepared.mask)
    assert plain["root"] is plain["tuned"] is plain["trajectory"] is None and plain["editor"] is world.model


def test_all_frames_start_from_one_noise(world, case, prepared):
    """A still clip without gather-swap comes out still."""
    still = case.samples[:1].expand(3, -1, -1, -1)
    recipe = replace(QUICK.via, swap=None)
    out = sample_edit(world.backend, world.model, still, prepared.positive, prepared.negative, recipe)
    assert torch.allclose(out[0], out[1], atol=NETWORK) and torch.allclose(out[0], out[2], atol=NETWORK)


def test_a_blend_needs_the_inversion(world, case, prepared):
    with pytest.raises(ValueError, match="^trajectory: the blend follows the clip's inversion"):
        sample_edit(world.backend, world.model, case.samples, prepared.positive, prepared.negative, QUICK.via,
                    mask=prepared.mask)  # fmt: skip


def test_the_whole_run_writes_what_it_prints(world, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(via_report, "FRAMES", 4)
    monkeypatch.setattr(via, "FRAMES", 4)
    monkeypatch.setattr(via, "SIZE", 64)
    chosen = ["per-frame", "via", "via-no-blend"]
    path = tmp_path / "new" / "via.json"
    via.main(2, chosen, path, ["5"], settings=QUICK, world=world)
    report = json.loads(path.read_text())
    assert set(report) == {"meta", "rows", "local", "global", "claims", "lengths", "clips"}
    assert set(report["meta"]) >= {"seed", "clips", "versions", "device", "commit", "clock", "measured"}
    assert [row["method"] for row in report["rows"]] == [row["method"] for row in report["local"]] == chosen
    assert [row["method"] for row in report["global"]] == chosen[:2]
    for row in report["rows"]:
        assert set(row) == {"method", *via_report.KEYS, *(f"{key}_ci" for key in via_report.KEYS)}
    # A local edit and a global one; the three ablations of the blend have no meaning there.
    assert len([row for row in report["clips"] if row["frames"] == 4]) == 2 * 2 + 1
    assert set(report["lengths"]) == {"4", "5"}
    assert [row["method"] for row in report["lengths"]["5"]] == [m for m in chosen if m in AT_LENGTH]
    assert {claim["against"] for claim in report["claims"]} == {"via-no-blend"}
    means = [row["psnr_truth"] for row in report["clips"] if row["method"] == "via-no-blend"]
    assert report["local"][2]["psnr_truth"] == pytest.approx(sum(means))
    assert all(math.isfinite(row["boundary_error"]) and row["seconds_per_frame"] > 0 for row in report["clips"])
    said = capsys.readouterr().out
    assert "local edits, 4 frames" in said and "5 frames, edits 0, 3" in said
    assert path.with_suffix(".jpg").stat().st_size > 1000
    assert path.with_name("via_length.png").stat().st_size > 1000
    # The same command again measures nothing, and says the same.
    monkeypatch.setattr(via, "KINDS", {"instruct": replace(via.INSTRUCT, edit=None)})
    again = via.main(2, chosen, path, ["5"], settings=QUICK, world=world)
    assert again["rows"] == report["rows"]


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"methods": ["via", "fairy"]}, "^methods: there is no fairy; there are per-frame, cross-frame, via"),
        ({"clips": 0}, "^clips: at least 1"),
        ({"editor": "flux"}, "^editor: there is no flux; there are instruct, flow"),
        ({"sizes": ["8x1024"]}, "^sizes: expected numbers of frames"),
        ({"sizes": ["2"]}, "^sizes: a clip of 2 frames has no group of 4"),
    ],
)
def test_a_wrong_request_is_refused_at_once(asked, sentence):
    with pytest.raises(ValueError, match=sentence):
        via.main(**asked)


def test_the_flow_editor_has_the_same_bench(world, tmp_path, monkeypatch):
    """On untrained weights: every part of VIA shows, and what is kept is the clip's own."""
    from steadyedit.backends.diffusers.flow_editor import FlowEditorBackend, FlowEditorModel, FlowTextEncoder
    from steadyedit.toyworld import models
    from steadyedit.toyworld.models import flow_editor

    torch.manual_seed(0)
    network = flow_editor.build(num_single_layers=1).eval().requires_grad_(False)
    text = FlowTextEncoder(models.BUILDERS["editor_text_encoder"]().eval().requires_grad_(False), models.tokenize)
    flows = World(quiet_backend(FlowEditorBackend), FlowEditorModel(network), text, world.vae, world.judge, world.clip)
    settings = flow.Settings(AdaptRecipe(TuneRecipe(steps=2, learning_rate=1e-2, queries=False), 2, 1, 2),
                             GatherSwap(group=2), (0, 1), steps=3)  # fmt: skip
    for module, name, value in ((via_report, "FRAMES", 3), (via, "FRAMES", 3), (via, "SIZE", 64)):
        monkeypatch.setattr(module, name, value)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    report = via.main(2, None, tmp_path / "flow.json", ["4"], editor="flow", settings=settings, world=flows)
    assert [row["method"] for row in report["local"]] == list(flow.METHODS)
    assert [row["method"] for row in report["global"]] == list(flow.METHODS)[:4]
    assert len({row["psnr_truth"] for row in report["local"]}) == len(flow.METHODS), "each is its own"
    assert set(report["lengths"]) == {"3", "4"}
    kept = {row["method"]: row["psnr_background"] for row in report["local"]}
    assert min(kept["with-blend"], kept["with-blend-inverted"]) > kept["with-adaptation"]
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_each_ablation_leaves_one_thing_out():
    full = ViaRecipe()
    assert METHODS["via"](full) == full and set(LOCAL_ONLY) | set(AT_LENGTH) < set(METHODS)
    assert {"tokenflow", "anyv2v"} < set(AT_LENGTH)
    for name in METHODS:
        if name.startswith("via-"):
            changed = {key for key, value in asdict(METHODS[name](full)).items() if value != asdict(full)[key]}
            assert len(changed) == 1, name


def test_curves_are_drawn(tmp_path):
    from PIL import Image

    path = tmp_path / "plot.png"
    draw_panels([Panel("seconds", "frames", {"a": [(8, 0.5), (240, 0.25)], "b": [(8, 0.1)]})], path)
    found = Image.open(path).convert("RGB").getcolors(100_000)
    assert {(0, 90, 180), (220, 120, 0)} <= {colour for _, colour in found}
    with pytest.raises(ValueError, match="holds no point"):
        draw_panels([Panel("seconds", "frames", {})], path)


def test_two_clocks():
    with timed() as seconds:
        sum(range(100_000))
    assert seconds.wall > 0 and seconds.own >= 0


def test_what_is_asked_of_the_adaptation_differs_in_one_thing_each(world, tmp_path, monkeypatch, capsys):
    for name, value in (("SIZE", 32), ("LENGTH", 4), ("FRAMES", 2)):
        monkeypatch.setattr(adaptation, name, value)
    recipes = {name: method.adaptation(QUICK.via) for name, method in adaptation.METHODS.items()}
    changed = {name for name, recipe in recipes.items() if recipe != QUICK.via.adaptation}
    assert changed == {"steps-50", "rate-3e-5", "no-augmentation", "rank-4", "rank-64"}
    wanted = ["unadapted", "adapted", "half-strength", "true-pair", "no-augmentation", "less-guidance",
              "self-attention-only"]
    report = adaptation.main(1, wanted, tmp_path / "found.json", settings=QUICK, world=world)
    found = {row["method"]: row for row in report["rows"]}
    assert list(found) == wanted and "1 clips, 2 frames each" in capsys.readouterr().out
    assert len({row["psnr_truth"] for row in found.values()}) == len(wanted), "each gives frames of its own"
    assert found["unadapted"]["loss"] is None and found["adapted"]["loss"] == found["half-strength"]["loss"] > 0
    assert found["true-pair"]["loss"] != found["adapted"]["loss"] != found["no-augmentation"]["loss"]
    for layers in ("attn1", "attn2"):
        narrowed = adaptation.training_only(world.backend, layers).projections(world.model)
        assert 0 < len(narrowed) < len(world.backend.projections(world.model))
        assert all(f".{layers}." in name for name in narrowed)
    for asked, sentence in (({"clips": 0}, "^clips: at least 1"), ({"methods": ["x"]}, "^methods: there is no x"),
                            ({"part": "x"}, "^part: there is no x; there are causes, hard")):
        with pytest.raises(ValueError, match=sentence):
            adaptation.main(**asked)


def test_hard_edits_are_chosen_by_the_untuned_editor_alone(world, tmp_path, monkeypatch):
    for name, value in (("SIZE", 32), ("LENGTH", 4), ("FRAMES", 2)):
        monkeypatch.setattr(adaptation, name, value)
    right = iter([2, 1, 0])
    monkeypatch.setattr(hard, "judged_names", lambda world, few, frames: [few.edit.target] * next(right))
    monkeypatch.setattr(hard.metrics, "edit_accuracy", lambda names, target: len(names) / 2)
    path = tmp_path / "hard.json"
    report = adaptation.main(2, ["unadapted"], path, "hard", settings=QUICK, world=world)
    # All frames right, half of them, none: the first edit's second other wording, the second one's first.
    first, second = (edit for _, edit in heldout_edits(2))
    asked = [wordings(first, WORDINGS)[2], wordings(second, WORDINGS)[1]]
    assert report["meta"]["instructions"] == [row["instruction"] for row in report["clips"]] == asked
    assert report["meta"]["settings"]["hard"]["most_right"] == 0.5
    assert adaptation.main(2, ["unadapted"], path, "hard", settings=QUICK, world=world)["clips"] == report["clips"]
    monkeypatch.setattr(hard, "LOOKED_AT", 0)
    with pytest.raises(ValueError, match="^part: none of 0 edits is hard"):
        adaptation.main(1, part="hard", settings=QUICK, world=world)
