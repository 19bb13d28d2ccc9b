"""The benchmark's plumbing on untrained toy models: every method, every key, the table, the files."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from steadyedit.benchmarks.common.cases import World, quiet_backend
from steadyedit.benchmarks.common.claims import CLAIMS, claim_line, claims
from steadyedit.benchmarks.common.edited import Settings
from steadyedit.benchmarks.common.journal import Journal
from steadyedit.benchmarks.common.report import meta, rows, table, write_json
from steadyedit.benchmarks.common.scores import KEYS, score
from steadyedit.benchmarks.ei2 import run as ei2
from steadyedit.benchmarks.ei2.methods import METHODS, edit
from steadyedit.methods.tuning import TuneRecipe
from steadyedit.vision.metrics import paired_interval

QUICK = Settings(recipe=TuneRecipe(steps=2, learning_rate=1e-4), steps=3, guidance=3.0)


@pytest.fixture(scope="module")
def world():
    """Random weights, true shapes."""
    from steadyedit.backends.diffusers import DiffusersModel
    from steadyedit.backends.diffusers.encoders import Autoencoder, TextEncoder
    from steadyedit.toyworld import models

    torch.manual_seed(0)
    built = {name: build().eval().requires_grad_(False) for name, build in models.BUILDERS.items()}
    return World(
        quiet_backend(),
        DiffusersModel(built["unet"]),
        TextEncoder(built["text_encoder"], models.tokenize),
        Autoencoder(built["vae"]),
        built["classifier"],
        built["clip"],
    )


@pytest.fixture(scope="module")
def case(world):
    return next(world.cases(1, 3, 64))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_every_number(world, case, method):
    before = {name: value.clone() for name, value in world.model.unet.state_dict().items()}
    edited = edit(world, case, method, QUICK, seed=0)
    assert edited.frames.shape == case.truth.frames.shape
    numbers = score(world, case, edited, QUICK)
    assert list(numbers) == list(KEYS)
    meaningless = {key for key, value in numbers.items() if value is None}
    untrained = method in ("per-frame", "vid2vid-zero")
    assert meaningless == ({"train_seconds", "mean_shift", "variance_shift"} if untrained else set())
    assert all(math.isfinite(value) for value in numbers.values() if value is not None)
    after = world.model.unet.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_captions_are_encoded_when_they_are_asked_for(world):
    """An editor's text encoder refuses captions that are longer than its instructions."""
    asked = []
    case = next(replace(world, text=None).cases(1, 2, 64))
    case = replace(case, encode=lambda text: asked.append(text) or [text])
    assert not asked
    assert [case.empty, case.target_text, case.source_text] == [[""], [case.truth.caption], [case.source.caption]]
    assert len(asked) == 3 and case.empty is case.empty and len(asked) == 3


def test_methods_differ_and_seeds_repeat(world, case):
    once, again, other = (edit(world, case, method, QUICK, seed=3).frames for method in ("ei2", "ei2", "tune-a-video"))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)


def test_the_true_answer_scores_best(world, case):
    """The measures know their goal: the truth itself, as an edit."""
    base = edit(world, case, "per-frame", QUICK, seed=0)
    best = score(world, case, replace(base, frames=case.truth.frames), QUICK)
    own = score(world, case, base, QUICK)
    assert best["psnr_truth"] == best["psnr_inside"] == best["psnr_background"] == 100
    assert best["flicker"] == 0 < own["flicker"]
    assert best["warp_error"] < own["warp_error"]


def test_the_whole_run_writes_what_it_prints(world, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ei2, "FRAMES", 3)
    monkeypatch.setattr(ei2, "SIZE", 64)
    path = tmp_path / "new" / "ei2.json"
    ei2.main(2, ["per-frame", "ei2"], path, settings=QUICK, world=world)
    report = json.loads(path.read_text())
    assert set(report["meta"]) >= {"seed", "clips", "versions", "device", "commit"}
    assert report["meta"]["clips"] == 2
    assert [row["method"] for row in report["rows"]] == ["per-frame", "ei2"]
    for row in report["rows"]:
        assert set(row) == {"method", *KEYS, *(f"{key}_ci" for key in KEYS)}
    assert len(report["clips"]) == 4 and len({row["clip"] for row in report["clips"]}) == 2
    assert report["rows"][0]["psnr_truth_ci"] is None
    values = [[row["psnr_truth"] for row in report["clips"] if row["method"] == m] for m in ("ei2", "per-frame")]
    assert report["rows"][1]["psnr_truth_ci"] == paired_interval(*values)
    said = capsys.readouterr().out
    assert "| ei2 |" in said and "| per-frame |" in said
    assert path.with_suffix(".png").stat().st_size > 1000

    # What is finished is not measured again, whatever the order in which it is asked for.
    monkeypatch.setattr(ei2, "edit", None)
    again = ei2.main(2, ["ei2", "per-frame"], path, settings=QUICK, world=world)
    assert sorted(again["clips"], key=str) == sorted(report["clips"], key=str)
    with pytest.raises(ValueError, match="was measured with other settings; delete the folder ei2.rows"):
        ei2.main(1, ["ei2"], path, settings=replace(QUICK, guidance=2.0), world=world)


def test_published_steps_to_scale(world, monkeypatch):
    monkeypatch.setattr(ei2, "FRAMES", 2)
    monkeypatch.setattr(ei2, "SIZE", 64)
    recipe = ei2.main(1, ["ei2"], steps=0.004, settings=QUICK, world=world)["meta"]["settings"]["recipe"]
    assert recipe["steps"] == 2 and recipe["learning_rate"] == pytest.approx(3e-5 * 250)
    with pytest.raises(ValueError, match="^steps: the scale must be above 0, but got 0"):
        ei2.main(1, ["ei2"], steps=0, world=world)


def test_an_interrupted_run_and_two_processes_measure_the_same(world, tmp_path, monkeypatch):
    """Rows of two processes, one of them killed and started again, are those of a single run but for the times."""
    monkeypatch.setattr(ei2, "FRAMES", 2)
    monkeypatch.setattr(ei2, "SIZE", 64)
    whole = ei2.main(3, ["per-frame"], tmp_path / "whole.json", settings=QUICK, world=world)
    begun = []

    def killed(*arguments):
        if begun:
            raise KeyboardInterrupt
        begun.append(arguments)
        return edit(*arguments)

    def process(rank):
        @contextmanager
        def sharded():
            yield rank, 2

        monkeypatch.setattr(ei2, "sharded", sharded)
        return ei2.main(3, ["per-frame"], tmp_path / "shared.json", settings=QUICK, world=world)

    assert process(1) == {}
    monkeypatch.setattr(ei2, "edit", killed)
    with pytest.raises(KeyboardInterrupt):
        process(0)
    assert len(list((tmp_path / "shared.rows").glob("*.json"))) == 2 and not (tmp_path / "shared.json").exists()
    monkeypatch.setattr(ei2, "edit", edit)
    shared = process(0)
    assert shared["meta"]["processes"] == 2 and set(shared["meta"]) == set(whole["meta"])
    timed = ("infer_seconds", "peak_mb")
    for mine, theirs in zip(shared["clips"], whole["clips"], strict=True):
        assert {k: v for k, v in mine.items() if k not in timed} == {k: v for k, v in theirs.items() if k not in timed}
    (tmp_path / "shared.rows" / "01-per-frame.json").unlink()
    with pytest.raises(ValueError, match="per-frame on clip 1 was not measured"):
        Journal(tmp_path / "shared.rows", shared["meta"]["settings"]).report(range(3), ["per-frame"])


def test_workers_are_processes_of_torchrun(tmp_path):
    """Two real processes wait for each other."""
    script = tmp_path / "wait.py"
    script.write_text(
        "import sys, pathlib\n"
        "from steadyedit.benchmarks.common.shards import sharded\n"
        "with sharded() as (rank, size):\n"
        "    pathlib.Path(sys.argv[1], f'{rank} of {size}').touch()\n"
        "assert len(list(pathlib.Path(sys.argv[1]).glob('* of 2'))) == 2\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script, tmp_path]
    environment = {**os.environ, "PYTHONPATH": _package_folder(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def _package_folder(tmp_path):
    """A folder from which another Python finds the package under its name."""
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "steadyedit").symlink_to(Path(__file__).parents[1], target_is_directory=True)
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


def test_processes_need_a_file(world, monkeypatch):
    @contextmanager
    def sharded():
        yield 1, 2

    monkeypatch.setattr(ei2, "sharded", sharded)
    with pytest.raises(ValueError, match="^json: several processes share their rows through files"):
        ei2.main(2, ["per-frame"], settings=QUICK, world=world)


@pytest.mark.parametrize(
    ("clips", "methods", "sentence"),
    [(1, ["ei2", "ei3"], "^methods: there is no ei3; there are per-frame, tune-a-video, tune-a-video-per-frame, ei2"),
     (0, None, "^clips: at")],
)
def test_a_wrong_request_is_refused_at_once(clips, methods, sentence):
    with pytest.raises(ValueError, match=sentence):
        ei2.main(clips, methods)


def test_the_settings_are_those_that_ship():
    """The table is of the toy graph, with fewer steps and more guidance."""
    settings, table_settings = Settings.shipped(), Settings.of_the_table()
    assert settings.recipe.steps > 1 and settings.steps > 1 and settings.guidance >= 1
    assert replace(settings.recipe, steps=table_settings.recipe.steps) == table_settings.recipe
    assert settings.recipe.steps > table_settings.recipe.steps > 1 and settings.steps > table_settings.steps > 1


def test_rows_and_table():
    keys = {"a": ("A", ".1f", 1), "b": ("B", ".2f", -1)}
    clips = [
        {"method": method, "clip": clip, "a": a, "b": b}
        for method, values in {"first": [(1, None), (2, None)], "other": [(3, 0.5), (4.1, None)]}.items()
        for clip, (a, b) in enumerate(values)
    ]
    first, other = rows(clips, keys)
    assert first == {"method": "first", "a": 1.5, "a_ci": None, "b": None, "b_ci": None}
    assert other["a"] == pytest.approx(3.55) and other["b"] == 0.5 and other["b_ci"] is None
    assert other["a_ci"][0] < 2.05 < other["a_ci"][1]
    assert table([first, other], keys).splitlines() == [
        "| method | A ↑ | B ↓ |",
        "|---|---|---|",
        "| first | 1.5 | – |",
        "| other | 3.5 * | 0.50 |",
    ]


def test_claims_are_answered_by_paired_intervals():
    truth = {
        "ei2": (0.9, 0.8, 1.0),
        "tune-a-video": (0.5, 0.45, 0.55),
        "ffam-4": (1, 2, 3),
        "centering-spectral": (1, 2, 3),
    }
    keys = ("edit_accuracy", "clip_text", "flicker", "train_seconds", "infer_seconds")
    clips = [{"method": m, **dict.fromkeys(keys, x)} for m, values in truth.items() for x in values]
    found = {(c["key"], c["method"], c["against"]): c for c in claims(clips)}
    right = found["edit_accuracy", "ei2", "tune-a-video"]
    assert right["shows"] is True and right["difference"] == pytest.approx(0.4) and 0 < right["ci"][0] < 0.4
    assert "ei2 - tune-a-video = 40%" in claim_line(right, ".0%") and claim_line(right, ".0%").endswith(": shows")
    assert found["flicker", "ffam-4", "centering-spectral"]["shows"] is None
    assert not any("layer-norm" in pair for pair in found)
    assert {c["method"] for c in found.values()} <= set(METHODS) and {c[3][0][0] for c in CLAIMS} <= set(METHODS)


def test_numbers_are_saved_whole_or_not_at_all(tmp_path):
    path = tmp_path / "numbers.json"
    write_json(path, {"meta": meta(0, 1), "rows": []})
    old = path.read_text()
    with pytest.raises(ValueError):
        write_json(path, {"rows": [{"psnr": float("nan")}]})
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="numbers.json: could not be saved"):
        write_json(tmp_path / "file" / "numbers.json", {})
    assert path.read_text() == old
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "numbers.json"]


MEASURED = """
import time, torch
from steadyedit.benchmarks.common.memory import peak_memory
with peak_memory() as memory:
    held = torch.ones(40 * 2**18)  # 40 MB
    deadline = time.monotonic() + 60  # on a busy machine the first look can be late
    while memory.peak_mb < 30 and time.monotonic() < deadline:
        time.sleep(0.02)
    del held
print(memory.peak_mb)
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU its own memory is measured")
def test_peak_memory_sees_what_is_freed_before_the_end():
    """In a process of its own: memory that others have freed, and the allocator has kept, makes none grow."""
    done = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 30 < float(done.stdout) < 80


@pytest.mark.parametrize("damage", ["row", "picture", "half", "a list", None])
def test_a_damaged_row_is_set_aside_and_measured_again(damage, tmp_path, caplog):
    journal = Journal(tmp_path, {"steps": 3})
    journal.keep(0, "rave", {"psnr": 31.5}, torch.rand(2, 8, 8, 3))
    path = tmp_path / "00-rave.json"
    if damage == "row":
        path.write_text(path.read_text().replace("31.5", "35.5"))
    if damage == "picture":
        picture = path.with_suffix(".png")
        picture.write_bytes(picture.read_bytes()[:-1])
    if damage in ("half", "a list"):
        path.write_text("[1]" if damage == "a list" else path.read_text()[:40])
    found = journal.find(0, "rave")
    if damage is None:
        assert found["row"] == journal.row(0, "rave") == {"psnr": 31.5} and found["settings"] == {"steps": 3}
    else:
        assert found is None and str(path) in caplog.text and (tmp_path / "00-rave.json.damaged").exists()
        with pytest.raises(ValueError, match="rave on clip 0 was not measured"):
            journal.row(0, "rave")


def test_methods_run_on_the_clips_and_prompts_of_a_manifest(world, tmp_path, monkeypatch, capsys):
    from steadyedit.benchmarks.curated import run as curated
    from steadyedit.curation.schema import COLUMNS, write_manifest
    from steadyedit.standalone.cli import main as command_line
    from steadyedit.toyworld import render, sample_scene
    from steadyedit.video.write import write_clip

    monkeypatch.setattr(curated, "SIZE", 64)
    monkeypatch.setattr(curated, "FRAMES", 3)
    (tmp_path / "clips").mkdir()
    clip = render(sample_scene(3, "test", frames=4, size=64))
    write_clip(tmp_path / "clips" / "a.mp4", clip.frames, 24)
    blank = dict.fromkeys(COLUMNS, "")
    rows = [
        {**blank, "name": "a", "source": "a.mp4", "file": "clips/a.mp4", "keep": "yes", "caption": clip.caption,
         "subject_prompt": "a red ball", "subject_difficulty": "2", "style_prompt": "at sunset"},
        {**blank, "name": "b", "source": "b.mp4", "keep": "no", "caption": "b", "subject_prompt": "left out"},
        {**blank, "name": "c", "source": "c.mp4", "file": "clips/c.mp4", "keep": "yes", "subject_prompt": "no caption"},
    ]  # fmt: skip
    manifest = tmp_path / "manifest.csv"
    write_manifest(manifest, rows)
    asked = {"manifest": manifest, "settings": QUICK, "world": world, "json_path": tmp_path / "found.json"}
    report = curated.main(None, ["per-frame", "ei2"], **asked)
    expected = [(method, f"a: {kind}", level) for kind, level in (("subject", "2"), ("style", ""))
                for method in ("per-frame", "ei2")]  # fmt: skip
    assert [(row["method"], row["clip"], row["difficulty"]) for row in report["clips"]] == expected
    assert all(math.isfinite(row[key]) for row in report["clips"] for key in curated.KEYS if key != "train_seconds")
    assert set(report["by_kind"]) == {"subject", "style"} and "2 edits of 1 clips" in capsys.readouterr().out
    # What is finished is not run again; other words are other rows.
    monkeypatch.setattr(curated, "run", None)
    assert curated.main(None, ["per-frame", "ei2"], **asked)["rows"] == report["rows"]
    rows[0]["subject_prompt"] = "a blue ball"
    write_manifest(manifest, rows)
    with pytest.raises(ValueError, match="other settings"):
        curated.main(None, ["per-frame", "ei2"], **asked)
    write_manifest(manifest, rows[1:])
    for arguments, sentence in (
        (["--manifest", str(tmp_path / "x.csv")], "is not there; give the manifest.csv"), ([], "--manifest is missing"),
        (["--manifest", str(manifest)], "no clip that is kept and has both a caption and a prompt"),
        (["--manifest", str(manifest), "--methods", "video-p2p"], "there is no video-p2p"),
    ):  # fmt: skip
        assert command_line(["bench", "curated", *arguments]) == 1
        assert sentence in capsys.readouterr().err
