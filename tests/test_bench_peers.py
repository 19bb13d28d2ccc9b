"""The bench beside peers: equal before timed, and whoever lacks a peer is told what it needs."""

from __future__ import annotations

import json

import pytest
from steadyedit.benchmarks.peers import clips, networks
from steadyedit.benchmarks.peers import run as peers
from steadyedit.benchmarks.peers.contest import Contest, measured
from steadyedit.vision.segmentation import load as loading
from tiny_vision import TINY_SAM, shaken


def numbers(contest: Contest) -> dict:
    row = measured(contest)
    assert row["seconds"] > 0 and row["peer_seconds"] > 0 and row["error"] <= contest.tolerance
    assert (row["mb"] is None) == (contest.weigh == "") and peers.in_words(row).startswith(contest.work)
    return row


def test_our_frames_are_those_of_pyav():
    row = numbers(clips.reading({}, (3, 64, 96)))
    assert 0 < row["error"] < clips.READ_TOLERANCE and "of 255 apart" in row["words"]
    assert 0 < numbers(clips.reading({}, (3, 64, 96), exactly=True))["error"] < clips.EXACT_TOLERANCE


def test_our_masks_are_those_of_the_authors_predictor():
    if not loading.official_works():
        pytest.skip("segment-anything needs torchvision")
    numbers(networks.segmentation({}, lambda: shaken(lambda: loading.build_official(TINY_SAM))))


def test_gather_swap_of_equal_frames_is_plain_sampling():
    row = numbers(networks.gather_swap({}, frames=5, side=8, steps=2))
    assert "costs 1.64" in row["words"]


def test_no_number_of_a_result_that_differs(monkeypatch):
    monkeypatch.setattr(clips, "by_hand", lambda path: clips.moving(3, 64, 96).flip(0))
    with pytest.raises(RuntimeError, match="PyAV by hand .* is allowed"):
        measured(clips.reading({}, (3, 64, 96)))


def test_set_up_is_taken_off_and_steps_share_the_time(monkeypatch):
    spent = {"now": 0.0}
    monkeypatch.setattr("steadyedit.benchmarks.peers.contest.gc.collect", lambda: None)
    monkeypatch.setattr("steadyedit.benchmarks.peers.contest.clock", lambda: (lambda: spent["now"], "test"))

    def work(seconds: float):
        return lambda: spent.update(now=spent["now"] + seconds)

    contest = Contest("work", "a peer", work(5), work(9), lambda a, b: (0.0, ""), 0.0,
                      unmeasured=(work(1), work(5)), share=2, weigh="", floor=work(3))  # fmt: skip
    row = measured(contest)
    assert (row["seconds"], row["peer_seconds"], row["time_ratio"], row["floor_ratio"]) == (2, 2, 1, 0.75)


def test_what_lacks_is_said(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    report = peers.main(["core lora", "rave"], tmp_path / "peers.json")
    assert set(report["meta"]["absent"]) == {"core lora", "rave"} and report["rows"] == []
    assert "rave: not measured, needs a ComfyUI (COMFYUI_PATH" in capsys.readouterr().out
    assert json.loads((tmp_path / "peers.json").read_text())["meta"]["absent"]["rave"]


@pytest.mark.parametrize(("given", "sentence"), [
    (dict(methods=["none"]), "^methods: there is no none; there are reading"),
    (dict(peers=["rave"]), "^peers: expected NAME=FOLDER with a name of comfyui, rave, tune-a-video, but got 'rave'"),
    (dict(peers=["rave=/no/such/folder"]), "^peers: rave: there is no folder"),
])  # fmt: skip
def test_mistakes(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        peers.main(**given)


def test_every_row_can_be_named_on_the_command_line():
    # Names are parted by commas there.
    assert not [name for name in peers.WORKS if "," in name]
