"""Curating clips: from videos of any kind to a table that a person corrects, gone on with where it stopped."""

from __future__ import annotations

import csv
import json
import sys

import pytest
import torch
from PIL import Image
from steadyedit.curation import run, schema
from steadyedit.curation.filters import motion, small, verdict
from steadyedit.standalone import cli
from steadyedit.video.geometry import resized
from steadyedit.video.probe import probe
from steadyedit.video.read import read_clip
from video_files import make_video

SMALL = ["--size", "32", "--frames", "4,8", "--no-cuts"]


def texture(seed, size=200):
    coarse = torch.rand(1, 3, size // 5, size // 5, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")[0].movedim(0, -1).clamp(0, 1)


def moving(path, frames=5, step=2, seed=0, height=48, width=64):
    """A texture that moves by ``step`` pixels a frame to the left."""
    base = (texture(seed) * 255).round().byte().numpy()
    make_video(path, [base[:height, step * n : step * n + width] for n in range(frames)])
    return path


def curate(*arguments):
    return cli.main(["curate", *map(str, arguments)])


def rows_of(folder):
    return {row["name"]: row for row in schema.read_manifest(folder / "manifest.csv")}


def test_motion_is_exact_on_a_moving_texture():
    base = texture(1)
    for step in (0, 1, 4):
        pictures = [base[10:138, 10 + step * n : 138 + step * n] for n in range(4)]
        # The estimator's own error on a texture that moves as one; in percent of 128 pixels.
        assert motion(pictures) == pytest.approx(100 * step / 128, abs=0.02)
    assert motion([small(base)]) == 0
    assert verdict(3.0, 0, 0.1, 5) == "" and "more than 5" in verdict(6, 0, 0.1, 5)
    assert "less than 0.1" in verdict(0, 0, 0.1, 5) and verdict(3, 2, 0.1, 5) == "has 2 scene cuts"


def test_clips_are_standard_and_bad_ones_named(tmp_path, capsys):
    videos = tmp_path / "videos"
    videos.mkdir()
    moving(videos / "long.mp4", frames=11, step=1)
    moving(videos / "wide.mkv", 5, 1, 2, width=100)
    moving(videos / "short.mp4", frames=3)
    moving(videos / "still.mp4", frames=5, step=0)
    moving(videos / "wild.mp4", frames=5, step=10)
    (videos / "broken.mp4").write_bytes(b"nothing")
    assert curate(videos, "--output", tmp_path / "set", *SMALL) == 0
    rows = rows_of(tmp_path / "set")
    assert {name: row["keep"] for name, row in rows.items()} == {
        "long": "yes", "wide": "yes", "short": "no", "still": "no", "wild": "no", "broken": "no"}  # fmt: skip
    assert "at least 4 are needed" in rows["short"]["reason"] and "less than 0.1" in rows["still"]["reason"]
    assert "more than 5" in rows["wild"]["reason"] and "no readable video" in rows["broken"]["reason"]
    assert [rows[name]["frames"] for name in ("long", "wide")] == ["8", "4"]
    for name in ("long", "wide"):
        info = probe(tmp_path / "set" / rows[name]["file"])
        assert (info.width, info.height, str(info.frames)) == (32, 32, rows[name]["frames"])
    assert sorted(path.name for path in (tmp_path / "set" / "clips").iterdir()) == ["long.mp4", "wide.mp4"]
    printed = capsys.readouterr()
    assert "2 of 6 clips are kept, 2 of them with empty cells" in printed.out and "broken.mp4" in printed.err
    assert "| 2 | 4/8 | 32x32 | 0 | 0 of 2 | 0 | 0 | 0 |" in (tmp_path / "set" / "statistics.md").read_text()


def test_a_person_corrects_rows_and_nothing_is_done_again(tmp_path, capsys):
    moving(tmp_path / "a.mp4")
    moving(tmp_path / "b.mp4", step=10)
    command = [tmp_path / "a.mp4", tmp_path / "b.mp4", "--output", tmp_path / "set", *SMALL]
    assert curate(*command) == 0
    path = tmp_path / "set" / "manifest.csv"
    rows = rows_of(tmp_path / "set")
    assert rows["a"]["keep"] == "yes" and rows["b"]["keep"] == "no"
    rows["a"] |= {"caption": "Écume, \"a wave\"", "subject": "environment", "subject_complexity": "3",
                  "style_prompt": "a wave, in oil", "style_difficulty": "2", "mine": "kept"}  # fmt: skip
    rows["b"]["keep"] = "yes"
    schema.write_manifest(path, rows.values())
    made = (tmp_path / "set" / "clips" / "a.mp4").stat().st_mtime_ns
    assert curate(*command) == 0
    again = rows_of(tmp_path / "set")
    assert again["a"] == rows["a"] and again["a"]["mine"] == "kept"
    assert again["b"]["keep"] == "yes" and (tmp_path / "set" / again["b"]["file"]).exists()
    assert (tmp_path / "set" / "clips" / "a.mp4").stat().st_mtime_ns == made
    statistics = (tmp_path / "set" / "statistics.md").read_text()
    assert "| 2 | 4 | 32x32 | 0.5 | 1 of 2 | 1 | 0 | 0 |" in statistics
    assert "subject: environment 100 % (of 1 of 2)" in statistics and "subject, complexity: complex 100 %" in statistics
    assert "edits of style: 1; L2 100 %" in statistics


@pytest.mark.parametrize(("change", "sentence"), [
    ({"subject": "robot"}, "row 'a': subject is 'robot'; expected people, animal"),
    ({"event_complexity": "4"}, "event_complexity is '4'; expected 1, 2, 3"),
    ({"keep": "maybe"}, "keep is 'maybe'; expected yes, no"),
    ({"style_difficulty": "9"}, "expected 1, 2, 3, 4, 5"),
])  # fmt: skip
def test_a_slip_of_the_pen_is_told(tmp_path, capsys, change, sentence):
    moving(tmp_path / "a.mp4")
    row = dict.fromkeys(schema.COLUMNS, "") | {"name": "a", "source": str(tmp_path / "a.mp4")}
    schema.write_manifest(tmp_path / "set" / "manifest.csv", [row | change])
    assert curate(tmp_path / "a.mp4", "--output", tmp_path / "set", *SMALL) == 1
    assert sentence in capsys.readouterr().err


def test_manifests_that_are_none(tmp_path):
    path = tmp_path / "manifest.csv"
    for words, sentence in (("a,b\n1,2\n", "is no manifest"), ("name,source\nx,y\nx,z\n", "more than one row"),
                            ("name,source\nx\n", "line 2 has another number of cells")):  # fmt: skip
        path.write_text(words)
        with pytest.raises(ValueError, match=sentence):
            schema.read_manifest(path)


def test_an_interrupted_run_goes_on(tmp_path, monkeypatch):
    for name in "abc":
        moving(tmp_path / f"{name}.mp4", seed=ord(name))
    made = []

    def interrupted(row, settings, choose=run.choose):
        if row["name"] == "b" and len(made) == 1:
            raise KeyboardInterrupt
        made.append(row["name"])
        return choose(row, settings)

    monkeypatch.setattr(run, "choose", interrupted)
    command = [*(tmp_path / f"{name}.mp4" for name in "abc"), "--output", tmp_path / "set", *SMALL]
    assert curate(*command) == 130
    assert rows_of(tmp_path / "set")["a"]["keep"] == "yes"
    monkeypatch.undo()
    before = (tmp_path / "set" / "clips" / "a.mp4").stat().st_mtime_ns
    assert curate(*command) == 0
    assert {row["keep"] for row in rows_of(tmp_path / "set").values()} == {"yes"}
    assert (tmp_path / "set" / "clips" / "a.mp4").stat().st_mtime_ns == before


def test_a_model_describes_eight_frames(tmp_path, monkeypatch):
    from test_curation_answers import EDITED, PLAIN, Model

    class Looks(Model):
        def ask(self, frames, words, tokens):
            self.seen = frames
            return super().ask(frames, words, tokens)

    moving(tmp_path / "a.mp4", frames=20, step=1)
    model = Looks(PLAIN, json.dumps(EDITED))
    monkeypatch.setattr(run, "load", lambda folder: model)
    arguments = ["--size", "32", "--frames", "16", "--no-cuts", "--model", tmp_path]
    command = [tmp_path / "a.mp4", "--output", tmp_path / "set", *arguments]
    assert curate(*command) == 0
    row = rows_of(tmp_path / "set")["a"]
    assert row["subject"] == "animal" and row["combination_difficulty"] == "5" and not row["notes"]
    clip = read_clip(tmp_path / "set" / row["file"]).frames
    # linspace(0, 15, 8), rounded half to even
    assert torch.equal(model.seen, clip[[0, 2, 4, 6, 9, 11, 13, 15]])
    assert curate(*command) == 0 and not model.answers  # nothing is asked again


def test_scene_cuts(tmp_path):
    pytest.importorskip("scenedetect")
    one, other = ((texture(seed, 400) * 255).round().byte().numpy() for seed in (3, 4))
    shots = [one[:64, n : n + 64] for n in range(20)] + [255 - other[:64, n : n + 64] // 3 for n in range(20)]
    make_video(tmp_path / "cut.mp4", shots)
    make_video(tmp_path / "whole.mp4", [one[:64, n : n + 64] for n in range(40)])
    arguments = [tmp_path / "cut.mp4", tmp_path / "whole.mp4", "--output", tmp_path / "set", "--size", "64",
                 "--frames", "40"]  # fmt: skip
    assert curate(*arguments) == 0
    rows = rows_of(tmp_path / "set")
    assert rows["cut"]["reason"] == "has 1 scene cut" and rows["cut"]["keep"] == "no"
    assert (rows["whole"]["cuts"], rows["whole"]["keep"]) == ("0", "yes")


def test_without_pyscenedetect_it_is_said_at_once(tmp_path, capsys, monkeypatch):
    moving(tmp_path / "a.mp4")
    monkeypatch.setitem(sys.modules, "scenedetect", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert curate(tmp_path / "a.mp4", "--output", tmp_path / "set", "--size", "32", "--frames", "4") == 1
    assert "pip install scenedetect-headless, or leave them out by --no-cuts" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["nowhere.mp4"], "nowhere.mp4 is not there"),
    (["empty"], "no videos in empty"),
    (["a.mp4", "--frames", "many"], "numbers of frames are expected"),
    (["a.mp4", "--size", "33"], "an even number of pixels"),
    (["a.mp4", "--least-motion", "6"], "must be below --most-motion"),
    (["a.mp4", "--model", "nowhere"], "there is no such folder"),
    (["empty", "--set", "davis"], "it has no folder JPEGImages"),
    (["empty", "--set", "loveu-tgve"], "it has no LOVEU-TGVE-2023_Dataset.csv"),
    (["empty", "--set", "balancecc"], "it holds no videos"),
])  # fmt: skip
def test_mistakes(tmp_path, capsys, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    moving(tmp_path / "a.mp4")
    (tmp_path / "empty").mkdir()
    assert curate(*arguments, "--output", "set", "--no-cuts") == 1
    assert sentence in capsys.readouterr().err and not (tmp_path / "set").exists()


# ---- public sets ----


def test_davis(tmp_path):
    for name in ("bear", "camel"):
        folder = tmp_path / "JPEGImages" / "480p" / name
        folder.mkdir(parents=True)
        base = (texture(len(name)) * 255).round().byte().numpy()
        for n in range(5):
            Image.fromarray(base[:48, n : n + 96]).save(folder / f"{n:05}.jpg", quality=98, subsampling=0)
    (tmp_path / "Annotations" / "480p" / "bear").mkdir(parents=True)
    assert curate(tmp_path, "--set", "davis", "--output", tmp_path / "set", *SMALL) == 0
    rows = rows_of(tmp_path / "set")
    assert {name: (row["frames"], row["fps"], row["keep"]) for name, row in rows.items()} == {
        "bear": ("4", "24", "yes"), "camel": ("4", "24", "yes")}  # fmt: skip
    frames = read_clip(tmp_path / "set" / rows["bear"]["file"]).frames
    # The centre, and what is two pixels beside it: JPEG and h264 lie between, which keep brightness best.
    gaps = [(frames[0].mean(-1) - scaled.mean(-1)).abs().mean() for left in (24, 22, 26)
            for scaled in [resized(texture(4)[None, :48, left : left + 48], 32, 32)[0]]]  # fmt: skip
    assert gaps[0] < 0.05 and min(gaps[1:]) > 2 * gaps[0]


def test_loveu_tgve(tmp_path):
    columns = ["Video name", "Our GT caption", "Style Change Caption", "Object Change Caption",
               "Background Change Caption", "Multiple Changes Caption"]  # fmt: skip
    (tmp_path / "DAVIS_480p" / "480p_videos").mkdir(parents=True)
    moving(tmp_path / "DAVIS_480p" / "480p_videos" / "goat.mp4")
    with (tmp_path / "LOVEU-TGVE-2023_Dataset.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, ["DAVIS Videos:", *[""] * 5],
                                    ["goat", "A goat walks.", "A goat, in ink.", "A cat walks.", "A goat on ice.",
                                     "A cat on ice."], ["gone", "A horse.", "", "", "", ""]])  # fmt: skip
    assert curate(tmp_path, "--set", "loveu-tgve", "--output", tmp_path / "set", *SMALL) == 0
    rows = rows_of(tmp_path / "set")
    assert rows["goat"]["caption"] == "A goat walks." and rows["goat"]["keep"] == "yes"
    assert [rows["goat"][f"{edit}_prompt"] for edit in schema.EDITS] == [
        "A cat walks.", "A goat on ice.", "", "A goat, in ink.", "A cat on ice."]  # fmt: skip
    assert rows["gone"]["keep"] == "no" and "gone.mp4: is not there" in rows["gone"]["reason"]


@pytest.mark.parametrize("table", [
    [{"Video Name": "cat", "Original Prompt": "A cat.", "Editing": [
        {"Edit Type": "Object Change", "Target Prompt": "A dog."},
        {"Edit Type": "Style Change", "Target Prompt": "Ink."}]}],
    {"cat": {"original prompt": "A cat.", "edits": [{"type": "object", "prompt": "A dog."},
                                                    {"type": "style", "prompt": "Ink."}]}},
])  # fmt: skip
@pytest.mark.parametrize("kind", ["balancecc", "rave"])
def test_sets_with_a_table(tmp_path, table, kind):
    (tmp_path / "videos").mkdir()
    moving(tmp_path / "videos" / "cat.mp4")
    moving(tmp_path / "videos" / "plain.mp4")
    (tmp_path / "table.json").write_text(json.dumps(table))
    assert curate(tmp_path, "--set", kind, "--output", tmp_path / "set", *SMALL) == 0
    rows = rows_of(tmp_path / "set")
    cells = [rows["cat"][column] for column in ("caption", "subject_prompt", "style_prompt")]
    assert cells == ["A cat.", "A dog.", "Ink."]
    assert rows["plain"]["keep"] == "yes" and not rows["plain"]["caption"]


@pytest.mark.parametrize("kind", ["balancecc", "rave"])
def test_a_table_in_yaml_is_refused(tmp_path, capsys, kind):
    """Unless another table says what the videos show: then it may be settings."""
    (tmp_path / "videos").mkdir()
    moving(tmp_path / "videos" / "cat.mp4")
    command = [tmp_path, "--set", kind, "--output", tmp_path / "set", *SMALL]
    (tmp_path / "prompts.YML").write_text("cat:\n  original prompt: A cat.\n")
    (tmp_path / "settings.json").write_text('{"fps": 8}')
    assert curate(*command) == 1
    printed = capsys.readouterr().err
    assert f"{tmp_path / 'prompts.YML'}: is YAML, but captions and prompts of" in printed
    assert "are read from .json and .csv tables" in printed and "convert it to JSON or CSV" in printed
    assert not (tmp_path / "set").exists()
    (tmp_path / "table.json").write_text('{"cat": {"original prompt": "A cat."}}')
    assert curate(*command) == 0 and rows_of(tmp_path / "set")["cat"]["caption"] == "A cat."


def test_names_that_meet_are_told_apart(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        moving(tmp_path / folder / "a b.mp4", seed=ord(folder))
    assert curate(tmp_path / "x", tmp_path / "y", "--output", tmp_path / "set", *SMALL) == 0
    assert list(rows_of(tmp_path / "set")) == ["a_b", "a_b_2"]
