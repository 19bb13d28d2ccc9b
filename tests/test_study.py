"""A blind comparison's folder: what is paired, what its files tell, and what answers to it say."""

from __future__ import annotations

import csv
import json
import re

import av
import numpy as np
import pytest
from steadyedit.standalone import cli
from video_files import make_video, number_of, numbered

COLOURS = {"ours": 3, "rival": 20, "third": 33}


def videos(folder, level, names=("a", "b"), frames=4, fps=10, suffix=".mp4", sound=False):
    folder.mkdir(exist_ok=True)
    for name in names:
        make_video(folder / f"{name}{suffix}", [numbered(level)] * frames, fps, sound=sound)
    return folder


@pytest.fixture
def folders(tmp_path):
    return [videos(tmp_path / name, level) for name, level in COLOURS.items()]


def study(*arguments):
    return cli.main(["study", *map(str, arguments)])


def page_of(folder):
    data = re.search(r'<script type="application/json" id="study">(.*?)</script>', (folder / "index.html").read_text())
    return json.loads(data[1])


def test_pairs_and_key(folders, tmp_path, capsys):
    (tmp_path / "texts.csv").write_text('name,text\na,"a ball, </script><b>red"\nb,two\n')
    source = videos(tmp_path / "source", 10)
    out = tmp_path / "study"
    assert study(*folders, "--output", out, "--texts", tmp_path / "texts.csv", "--source", source) == 0
    assert "6 pairs" in capsys.readouterr().out
    page, key = page_of(out), json.loads((tmp_path / "study_key.json").read_text())
    assert list(page["questions"]) == ["text", "consistency", "overall"] and len(page["pairs"]) == 6
    compared = set()
    for pair in page["pairs"]:
        owners = [key["videos"][name] for name in pair["videos"]]
        clip, = {owner["clip"] for owner in owners}
        compared.add((clip, frozenset(owner["method"] for owner in owners)))
        assert pair["text"] == {"a": "a ball, </script><b>red", "b": "two"}[clip]
        assert key["videos"][pair["source"]] == {"method": "source", "clip": clip}
        assert key["pairs"][pair["pair"]]["clip"] == clip
    assert len(compared) == 6
    assert {path.name for path in (out / "videos").iterdir()} == set(key["videos"])
    for name, owner in key["videos"].items():
        from steadyedit.video.read import read_clip

        assert number_of(read_clip(out / "videos" / name).frames[2]) == {**COLOURS, "source": 10}[owner["method"]]


def test_nothing_in_the_folder_tells_a_method(tmp_path):
    folders = [videos(tmp_path / "secretours", 3, sound=True), videos(tmp_path / "secretrival", 9, suffix=".mkv")]
    assert study(*folders, "--output", tmp_path / "study") == 0
    for path in (tmp_path / "study").rglob("*"):
        if path.is_file():
            assert b"secret" not in path.read_bytes() and "a" not in path.stem.split("_")
    for path in (tmp_path / "study" / "videos").iterdir():
        assert path.stat().st_mtime == 0 and re.fullmatch(r"[0-9a-f]{16}\.mp4", path.name)
        with av.open(str(path)) as opened:
            stream, = opened.streams
            assert (stream.type, stream.codec_context.name, stream.pix_fmt) == ("video", "h264", "yuv420p")
            assert not {"title", "comment", "creation_time", "artist"} & {key.lower() for key in opened.metadata}
    assert not re.search(r"https?://|//cdn", (tmp_path / "study" / "index.html").read_text())


def test_what_cannot_be_compared_is_named(tmp_path, capsys):
    ours = videos(tmp_path / "ours", 3, ("a", "alone", "long", "same", "bad"))
    rival = videos(tmp_path / "rival", 9, ("a", "bad"))
    videos(rival, 9, ("long",), frames=7)
    videos(rival, 3, ("same",))
    (rival / "bad.mp4").write_bytes(b"no video")
    assert study(ours, rival, "--output", tmp_path / "study") == 0
    told = capsys.readouterr().err
    for sentence in ("alone: left out, since it has nothing to be compared with in rival", "rival: bad.mp4: this is no",
                     "long: ours 4 frames in 0.40 s, rival 7 frames in 0.70 s: the pair is left out",
                     "same: ours and rival have the same pictures", "there are no texts"):  # fmt: skip
        assert sentence in told
    assert len(page_of(tmp_path / "study")["pairs"]) == 1
    assert study(ours, rival, "--output", tmp_path / "short", "--shorten") == 0
    assert "cut to the shortest" in capsys.readouterr().err
    key = json.loads((tmp_path / "short_key.json").read_text())
    from steadyedit.video.probe import probe

    lengths = {probe(tmp_path / "short" / "videos" / name).frames for name in key["videos"]}
    assert lengths == {4} and {owner["clip"] for owner in key["videos"].values()} == {"a", "long"}


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["ours"], "give the folders of two methods"),
    (["ours", "none"], "none: there is no such folder"),
    (["ours", "rival", "--names", "a,a"], "2 different names are needed"),
    (["ours", "rival", "--key", "study/key.json"], "lies in the study's folder"),
    (["ours", "rival", "--question", "text"], "it needs the texts"),
    (["ours", "rival", "--question", "what?"], "expected NAME=WORDS, or one of text, consistency, overall"),
    (["ours", "rival", "--show", "-1"], "0 or more pairs"),
    (["ours", "other"], "no pair of videos is left to compare"),
    (["ours", "rival", "--texts", "wrong.csv"], "expected CSV with the columns name and text"),
    (["--analyse", "x.json"], "name the study's key"),
])  # fmt: skip
def test_mistakes_leave_nothing(folders, tmp_path, capsys, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    videos(tmp_path / "other", 3, ("c",))
    (tmp_path / "wrong.csv").write_text("clip;words\n")
    before = sorted(tmp_path.iterdir())
    assert study(*arguments, "--output", "study") == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert sentence in said and said.startswith("steadyedit: ")
    assert sorted(tmp_path.iterdir()) == before


def test_a_study_is_never_written_over(folders, tmp_path, capsys):
    assert study(*folders[:2], "--output", tmp_path / "study") == 0
    assert study(*folders[:2], "--output", tmp_path / "study") == 1
    assert "not empty" in capsys.readouterr().err
    assert study(*folders[:2], "--output", tmp_path / "new", "--key", tmp_path / "study_key.json") == 1
    assert "is there already" in capsys.readouterr().err


def test_own_questions_and_the_first_against_the_others(folders, tmp_path):
    arguments = ["--question", "motion=Which moves better?", "--question", "overall", "--against-first", "--no-tie",
                 "--show", "3", "--names", "A,B,C"]  # fmt: skip
    assert study(*folders, "--output", tmp_path / "study", *arguments) == 0
    page, key = page_of(tmp_path / "study"), json.loads((tmp_path / "study_key.json").read_text())
    assert page["questions"]["motion"] == "Which moves better?" and list(page["questions"]) == ["motion", "overall"]
    assert (page["tie"], page["show"], len(page["pairs"])) == (False, 3, 4)
    assert all("A" in {key["videos"][name]["method"] for name in pair["videos"]} for pair in page["pairs"])


# ---- answers ----

KEY = {"study": "s1", "methods": ["ours", "rival"], "questions": {"text": "?", "overall": "?"},
       "pairs": {"p1": {"clip": "a", "videos": ["x", "y"]}, "p2": {"clip": "b", "videos": ["v", "w"]}},
       "videos": {"x": {"method": "ours", "clip": "a"}, "y": {"method": "rival", "clip": "a"},
                  "v": {"method": "ours", "clip": "b"}, "w": {"method": "rival", "clip": "b"}}}  # fmt: skip


def row(participant, pair, question, answer, swapped=False, seconds=2.0, at="2026-01-01T00:00:00Z"):
    left, right = KEY["pairs"][pair]["videos"][:: -1 if swapped else 1]
    return {"study": "s1", "participant": participant, "pair": pair, "question": question, "left": left, "right": right,
            "answer": answer, "seconds": seconds, "at": at}  # fmt: skip


def analyse(tmp_path, *files):
    (tmp_path / "key.json").write_text(json.dumps(KEY))
    names = []
    for number, rows in enumerate(files):
        path = tmp_path / f"{number}.{'csv' if number % 2 else 'json'}"
        if number % 2:
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, rows[0].keys())
                writer.writeheader()
                writer.writerows(rows)
        else:
            path.write_text(json.dumps({"study": "s1", "answers": rows}))
        names.append(path)
    return study("--analyse", *names, "--key", tmp_path / "key.json", "--json", tmp_path / "result.json")


def test_preferences_are_of_methods_not_of_sides(tmp_path, capsys):
    files = [
        [row("p", "p1", "text", "left"), row("p", "p2", "text", "right", swapped=True),
         row("p", "p1", "overall", "tie")],
        [row("q", "p1", "text", "left", swapped=True), row("q", "p2", "text", "unseen"),
         row("q", "p1", "overall", "left", swapped=True)],
        # The same file again, and one answer given anew: the last counts.
        [row("p", "p1", "text", "left"), row("q", "p1", "overall", "right", swapped=True, at="2026-01-02T00:00:00Z")],
    ]  # fmt: skip
    assert analyse(tmp_path, *files) == 0
    result = {p["question"]: p for p in json.loads((tmp_path / "result.json").read_text())["preferences"]}
    assert result["text"]["answers"] == 3 and result["text"]["participants"] == 2
    assert result["text"]["rates"] == pytest.approx({"one": 2 / 3, "tie": 0, "other": 1 / 3, "preferred": 2 / 3})
    assert result["overall"]["rates"] == pytest.approx({"one": 0.5, "tie": 0.5, "other": 0, "preferred": 0.75})
    printed = capsys.readouterr().out
    assert "5 answers by 2 participants to 2 of 2 pairs" in printed and "ours against rival" in printed


def test_intervals_agree_with_scipys_bootstrap_over_people(tmp_path):
    from scipy.stats import bootstrap

    rng, rows = np.random.default_rng(3), []
    for person in range(25):
        lean = rng.beta(4, 2)
        for pair in ("p1", "p2")[: 1 + person % 2]:
            answer = rng.choice(["left", "right", "tie"], p=[lean * 0.8, 0.8 - lean * 0.8, 0.2])
            rows.append(row(f"{person}", pair, "text", answer))
    assert analyse(tmp_path, rows) == 0
    found, = json.loads((tmp_path / "result.json").read_text())["preferences"]
    people = sorted({r["participant"] for r in rows})
    wins = np.array([sum(r["answer"] == "left" for r in rows if r["participant"] == p) for p in people])
    sizes = np.array([sum(r["participant"] == p for r in rows) for p in people])
    drawn = bootstrap((wins, sizes), lambda w, s: w.sum() / s.sum(), paired=True, vectorized=False,
                      method="percentile", n_resamples=20_000, rng=np.random.default_rng(1))  # fmt: skip
    assert found["rates"]["one"] == pytest.approx(wins.sum() / sizes.sum())
    # Two draws of 10,000 and 20,000: their 2.5 % points lie this close.
    assert found["intervals"]["one"] == pytest.approx(list(drawn.confidence_interval), abs=0.015)


def test_one_person_has_no_interval(tmp_path, capsys):
    assert analyse(tmp_path, [row("p", "p1", "text", "left")]) == 0
    assert "100.0 [-]" in capsys.readouterr().out


@pytest.mark.parametrize(("changed", "sentence"), [
    ({"study": "s2"}, "answers study 's2', but the key is of 's1'"),
    ({"pair": "p9"}, "an answer does not fit the key: pair 'p9'"),
    ({"left": "v"}, "an answer does not fit the key"),
    ({"answer": "up"}, "an answer does not fit the key"),
    ({"seconds": "soon"}, "an answer does not fit the key"),
    ({"answer": "unseen"}, "hold no answer"),
])  # fmt: skip
def test_foreign_and_broken_answers(tmp_path, capsys, changed, sentence):
    assert analyse(tmp_path, [row("p", "p1", "text", "left") | changed]) == 1
    assert sentence in capsys.readouterr().err


def test_files_that_hold_no_answers(tmp_path, capsys):
    (tmp_path / "key.json").write_text(json.dumps(KEY))
    for name, words in (("x.json", "[]"), ("y.csv", "a,b\n1,2\n"), ("z.json", "{")):
        (tmp_path / name).write_text(words)
        assert study("--analyse", tmp_path / name, "--key", tmp_path / "key.json") == 1
        assert f"{name}: holds no answers" in capsys.readouterr().err
        assert study("--analyse", tmp_path / name, "--key", tmp_path / name) == 1
        assert "is no key of a study" in capsys.readouterr().err
