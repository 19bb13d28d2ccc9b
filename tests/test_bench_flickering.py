"""The choice of DAPE's flickering base: its criteria, and a whole run on untrained toy models."""

from __future__ import annotations

import json

import pytest
from steadyedit.benchmarks.flickering import run as flickering
from steadyedit.toyworld import heldout_edits
from test_bench_dape import QUICK, world  # noqa: F401


@pytest.mark.parametrize(
    ("flicker", "right", "chosen"),
    [
        ((0.01, 0.015, 0.02, 0.04), (0.9, 0.9, 0.9, 0.9), 0.2),  # the least that flickers enough
        ((0.01, 0.021, 0.03, 0.04), (0.9, 0.69, 0.7, 0.9), 0.2),  # and edits
        ((0.01, 0.019, 0.041, 0.05), (0.9, 0.9, 0.9, 0.9), None),  # too little, then too much
        ((0.01, 0.03, 0.03, 0.03), (0.9, 0.6, 0.6, 0.6), None),
    ],
)
def test_criteria(flicker, right, chosen):
    rows = zip((0.0, 0.1, 0.2, 0.3), flicker, right, strict=True)
    found = {eta: {"flicker": much, "edit_accuracy": edited} for eta, much, edited in rows}
    assert flickering.choice(found) == chosen


def test_the_whole_run(world, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr(flickering, "FRAMES", 3)
    monkeypatch.setattr(flickering, "SIZE", 64)
    path = tmp_path / "flickering.json"
    report = flickering.main(1, path, etas=(0.0, 0.5), settings=QUICK, world=world)
    assert json.loads(path.read_text())["clips"] == report["clips"] and "| 0.5 |" in capsys.readouterr().out
    assert [row["method"] for row in report["rows"]] == ["0.0", "0.5"]
    assert report["rows"][0]["psnr_truth"] != report["rows"][1]["psnr_truth"]
    # Clips of the validation split, which no table has.
    assert report["meta"]["settings"]["split"] == "validation"
    validation, test = heldout_edits(10, split="validation"), heldout_edits(48)
    assert not {str(scene) for scene, _ in validation} & {str(scene) for scene, _ in test}
    monkeypatch.setattr(flickering, "Bench", None)
    assert flickering.main(1, path, etas=(0.0, 0.5), settings=QUICK, world=world)["clips"] == report["clips"]
