"""Compare's files: one small video with both pictures, and a plain picture."""

from __future__ import annotations

from pathlib import Path

import folder_paths
import pytest
import torch
from steadyedit.nodes.compare import PLAYED, SIDE, Compare, pane
from steadyedit.video.read import read_clip


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    return tmp_path / "temp"


def test_a_small_preview_of_both(temporary):
    before, after = torch.full((5, 400, 900, 3), 0.2), torch.full((3, 200, 450, 4), 0.7)
    output = Compare.execute(before, after, 12.5)
    assert output.args[0] is after
    (played,) = output.ui[PLAYED]
    assert (played["width"], played["height"], played["frames"]) == (SIDE, 284, 3) and played["before"] == 5
    clip = read_clip(Path(temporary) / played["filename"])
    assert clip.frames.shape == (3, 284, 2 * SIDE, 3) and float(clip.fps) == 12.5
    assert (clip.frames[:, :, :630] - 0.2).abs().max() < 0.03 and (clip.frames[:, :, 650:] - 0.7).abs().max() < 0.03
    (still,) = output.ui["images"]
    assert (temporary / still["subfolder"] / still["filename"]).is_file()


def test_sides_are_even_and_never_enlarged():
    assert pane(41, 63) == (40, 64) or pane(41, 63) == (40, 62)
    assert pane(2160, 3840) == (360, 640) and pane(1920, 1080) == (640, 360)


def test_bad_pictures_are_told_by_their_input():
    with pytest.raises(ValueError, match="^after: it holds NaN"):
        Compare.execute(torch.zeros(1, 8, 8, 3), torch.full((1, 8, 8, 3), torch.nan), 8.0)
