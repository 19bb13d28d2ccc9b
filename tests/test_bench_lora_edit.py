"""LoRA-Edit's benchmark on untrained toy models: every method, the clips of two faces, the files."""

from __future__ import annotations

import json

import pytest
import torch
from steadyedit.benchmarks.common.cases import World, quiet_backend
from steadyedit.benchmarks.lora_edit import methods as lora_edit_methods
from steadyedit.benchmarks.lora_edit import report as lora_edit_report
from steadyedit.benchmarks.lora_edit import run as lora_edit
from steadyedit.benchmarks.lora_edit.cases import PLAIN, TURNING, cases, numbers_of
from steadyedit.benchmarks.lora_edit.methods import METHODS, ON_TURNING, Settings, edit
from steadyedit.benchmarks.lora_edit.report import KEYS, summed
from steadyedit.benchmarks.lora_edit_windows import methods as windows_methods
from steadyedit.benchmarks.lora_edit_windows import run as windows
from steadyedit.benchmarks.turning import run as turning
from steadyedit.methods.lora_edit.choices import KEEPS, TARGETS
from steadyedit.toyworld import heldout_edits
from tolerances import assert_close

QUICK = Settings(steps=2, learning_rate=1e-2, rank=2, second=2, sampling=2)
FRAMES, SIZE = 9, 32


@pytest.fixture(scope="module")
def world():
    """Random weights, true shapes."""
    from steadyedit.backends.diffusers.encoders import TextEncoder
    from steadyedit.backends.diffusers.toy_wan import VideoAutoencoder
    from steadyedit.backends.diffusers.video import DiffusersVideoBackend, DiffusersVideoModel
    from steadyedit.toyworld import models
    from steadyedit.toyworld.models import wan, wan_vae

    torch.manual_seed(0)
    built = {name: models.BUILDERS[name]().eval() for name in ("classifier", "clip", "text_encoder")}
    built |= {"wan": wan.build().eval(), "vae": wan.build_vae().eval()}
    for module in built.values():
        module.requires_grad_(False)
    model = DiffusersVideoModel(built["wan"], wan_vae.MEAN, wan_vae.STD)
    text = TextEncoder(built["text_encoder"], models.tokenize)
    return World(quiet_backend(DiffusersVideoBackend), model, text, VideoAutoencoder(built["vae"]),
                 built["classifier"], built["clip"])  # fmt: skip


@pytest.fixture(scope="module")
def found(world):
    return next(cases(world, PLAIN, [0], FRAMES, SIZE))


def test_every_method_is_its_own_and_stage_two_finds_stage_one(world, found, tmp_path, monkeypatch):
    before = {name: value.clone() for name, value in world.model.transformer.state_dict().items()}
    trained = []
    train = lora_edit_methods.train_mask_lora

    def noted(*args, **kwargs):
        tuned = train(*args, **kwargs)
        trained.append((tuned.from_cache, args[3].training.steps, [s.repeats for s in args[2]], args[3].targets))
        return tuned

    monkeypatch.setattr(lora_edit_methods, "train_mask_lora", noted)
    made = {name: edit(world, found, name, QUICK, 0, tmp_path) for name in METHODS}
    assert trained == [
        (False, 2, [1], TARGETS[0]), (False, 2, [1], TARGETS[0]), (True, 2, [1], TARGETS[0]),
        (False, 2, [1, 9], TARGETS[0]),
        # Two short clips, whose steps are two thirds as long.
        (False, 3, [1, 1], TARGETS[0]), (False, 2, [1], TARGETS[1]),
    ]  # fmt: skip
    frames = {name: edited.frames for name, (edited, _) in made.items()}
    assert all(f.shape == found.case.truth.frames.shape and torch.isfinite(f).all() for f in frames.values())
    names = list(METHODS)
    assert not [(a, b) for i, a in enumerate(names) for b in names[:i] if torch.equal(frames[a], frames[b])]
    assert made["untuned"][0].train_seconds is None
    first, both = (made[name][0].train_seconds for name in ("mask-lora", "mask-lora-reference"))
    assert both > first > 0, "the second stage's time is that of both"
    after = world.model.transformer.state_dict()
    assert all(torch.equal(before[name], value) for name, value in after.items())


def test_a_thing_with_two_faces(world):
    (number,) = numbers_of(1)[TURNING]
    plain, turning = (next(cases(world, part, [number], FRAMES, SIZE)) for part in (PLAIN, TURNING))
    assert turning.reference == 7 and plain.reference == FRAMES - 1
    assert set(plain.wanted) == {plain.case.edit.target} == set(turning.wanted[:5])
    assert len(set(turning.wanted)) == 2 and len(set(turning.wanted[5:])) == 1
    for which in ("source", "truth"):
        one, other = (getattr(part.case, which).frames for part in (plain, turning))
        assert torch.equal(one[:5], other[:5]) and not torch.equal(one[5:], other[5:])
    assert torch.equal(plain.boxes, turning.boxes), "the motion is the same"


def test_clips_are_held_out_and_of_the_kinds_that_a_mask_serves():
    edits = [edit for _, edit in heldout_edits(30)]
    numbers = numbers_of(6)
    assert [edits[n].kind for n in numbers[PLAIN]] == 2 * ["colour", "shape", "texture"]
    assert [edits[n].kind for n in numbers[TURNING]] == 3 * ["colour"]
    assert not set(numbers[PLAIN]) & set(numbers[TURNING])


def test_the_rows_are_the_papers():
    assert list(METHODS) == [
        "untuned", "naive-lora", "untuned-mask", "mask-lora", "mask-lora-reference", "mask-lora-clips",
        "mask-lora-attention-only", "anyv2v",
    ]  # fmt: skip
    assert set(ON_TURNING) < set(METHODS) and {method.keep for method in METHODS.values()} < set(KEEPS)


def test_the_whole_run_writes_what_it_prints(world, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lora_edit, "FRAMES", FRAMES)
    monkeypatch.setattr(lora_edit, "SIZE", SIZE)
    chosen, path = ["untuned", "mask-lora", "mask-lora-reference"], tmp_path / "new" / "table.json"
    lora_edit.main(2, chosen, path, settings=QUICK, world=world)
    report = json.loads(path.read_text())
    assert set(report) == {"meta", "rows", PLAIN, TURNING, "claims", "clips"}
    assert set(report["meta"]) >= {"seed", "clips", "versions", "device", "commit", "clock", "measured", "notes"}
    assert [row["method"] for row in report["rows"]] == chosen
    assert [row["method"] for row in report[TURNING]] == chosen[1:]
    for row in report["rows"]:
        assert set(row) == {"method", "edit_kept", *KEYS, *(f"{key}_ci" for key in KEYS)}
        assert len(row["edit_kept"]) == FRAMES and row["edit_accuracy"] == pytest.approx(sum(row["edit_kept"]) / FRAMES)
    assert len(report["clips"]) == 2 * 3 + 2 and all(clip["seconds"] > 0 for clip in report["clips"])
    assert {claim["clips"] for claim in report["claims"]} == {PLAIN, TURNING}
    said = capsys.readouterr().out
    assert "plain clips" in said and "edit kept by frame, mask-lora-reference" in said
    assert path.with_suffix(".jpg").stat().st_size > 1000 and path.with_name("table_kept.png").stat().st_size > 1000
    # The same command again measures nothing, and says the same.
    monkeypatch.setattr(lora_edit, "run", None)
    assert lora_edit.main(2, chosen, path, settings=QUICK, world=world)["rows"] == report["rows"]


def test_measures_know_the_truth(world, found):
    from steadyedit.benchmarks.common.edited import Edited

    measured = [
        lora_edit_report.measured(world, found, Edited(frames, None, 1.0, 1.0, None, [], torch.empty(0)))
        for frames in (found.case.truth.frames, found.case.source.frames)
    ]
    true, unedited = measured
    assert true["psnr_truth"] == true["psnr_inside"] == 100 and true["boundary_error"] == true["seam_error"] == 0
    assert unedited["input_similarity"] == pytest.approx(1) and unedited["psnr_background"] == 100
    assert unedited["psnr_inside"] < 30 and unedited["boundary_error"] > 0
    rows = summed([{"method": "a", "clip": 0, **true}, {"method": "a", "clip": 1, **unedited}])
    assert rows[0]["edit_kept"] == [(x + y) / 2 for x, y in zip(true["edit_kept"], unedited["edit_kept"])]


@pytest.mark.parametrize(("asked", "sentence"), [
    ({"methods": ["mask-lora", "vace"]}, "^methods: there is no vace; there are untuned, naive-lora"),
    ({"clips": 0}, "^clips: at least 1"),
])  # fmt: skip
def test_a_wrong_request_is_refused_at_once(asked, sentence):
    with pytest.raises(ValueError, match=sentence):
        lora_edit.main(**asked)


def test_long_clips_in_windows_give_rows_and_a_second_run_finds_them(world, tmp_path, capsys):
    quick = windows_methods.Settings(steps=1, rank=2, sampling=1, length=5)
    run = {"json_path": tmp_path / "w.json", "settings": quick, "world": world, "frames": 9, "size": 32}
    names = ["windows", "windows-unmatched", "native-piece"]
    report = windows.main(1, names, **run)
    assert [row["method"] for row in report["rows"]] == names and set(windows.KEYS) < set(report["rows"][0])
    by_name = {row["method"]: row for row in report["clips"]}
    assert [len(by_name[name]["by_frame"]) for name in names] == [9, 9, 5]
    assert by_name["windows"]["flicker_joins"] is not None and by_name["native-piece"]["flicker_joins"] is None
    assert by_name["windows"]["psnr_background"] > by_name["windows-unmatched"]["psnr_background"]
    capsys.readouterr()
    assert windows.main(1, names, **run)["clips"] == report["clips"]
    assert "edit kept 1" not in capsys.readouterr().out.split("|")[0]
    with pytest.raises(ValueError, match="methods: there is no last"):
        windows.main(1, ["last"], **run)


def test_a_drift_is_the_slope_of_the_mean_colour():
    truth = torch.rand(6, 4, 4, 3, generator=torch.Generator().manual_seed(1)) / 2
    where = torch.zeros(6, 4, 4)
    where[:5, :2] = 1
    slope = torch.tensor([0.02, -0.01, 0.0])
    moved = truth + 0.1 + torch.arange(6).view(-1, 1, 1, 1) * slope
    moved[:, 2:] = 0  # what is not looked at
    assert windows.drift(moved, truth, where) == pytest.approx(255 * float(slope.norm()), abs=0.01)
    assert windows.drift(truth + 0.1, truth, where) == pytest.approx(0, abs=0.01)
    assert windows.drift(truth, truth, where * 0) is None


def test_what_is_asked_of_the_turning_clips(world, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(turning, "SIZE", SIZE)
    monkeypatch.setattr(turning, "FRAMES", FRAMES)
    report = turning.main(1, None, tmp_path / "found.json", settings=QUICK, world=world)
    found = {row["method"]: row for row in report["rows"]}
    assert list(found) == list(turning.QUESTIONS)
    assert "1 turning clips" in capsys.readouterr().out
    assert len({row["turned"] for row in found.values()}) == len(found), "each gives frames of its own"
    assert all(0.9 < share <= 1 for share in report["hidden"].values()), "boxes hold the object"
    # The same LoRA in other uses; another after other trainings.
    assert found["stage-2"]["loss_frame"] == found["stage-2-frame-shown"]["loss_frame"] < found["stage-1"]["loss_frame"]
    for asked, sentence in (({"clips": 0}, "^clips: at least 1"), ({"methods": ["x"]}, "^methods: there is no x")):
        with pytest.raises(ValueError, match=sentence):
            turning.main(**asked)


def test_the_way_from_the_first_frames_colour_is_measured(world):
    (number,) = numbers_of(1)[TURNING]
    turned = next(cases(world, TURNING, [number], FRAMES, SIZE))
    truth, behind = turned.case.truth.frames, range(5, FRAMES)
    first = turning._colour(truth[:1], turned.case.truth.masks[0][:1])
    ends = (truth[5:], first.expand(FRAMES - 5, SIZE, SIZE, 3))
    assert_close(torch.tensor([turning._turned(turned, frames, behind) for frames in ends]), torch.tensor([1.0, 0.0]))
