"""A clip of 30000/1001 a second stays one through every graph that writes a video here."""

from __future__ import annotations

import sys
from fractions import Fraction

import av
import pytest
from steadyedit.standalone.run import run_standalone
from video_files import make_video, numbered

pytestmark = pytest.mark.skipif("comfy_api" in sys.modules, reason="a host is loaded in this process")

SAVE = {"class_type": "SaveVideo", "inputs": {"filename_prefix": "out", "format": "mp4", "video": ["3", 0]}}
LOAD = {"class_type": "LoadVideo", "inputs": {"file": "clip"}}
PARTS = {"class_type": "GetVideoComponents", "inputs": {"video": ["1", 0]}}


def frames_of(stride):
    return {"class_type": "SteadyEditLoadFrames", "inputs": {"video": ["1", 0], "start": 0, "count": 0,
                                                              "stride": stride, "size": 32}}  # fmt: skip


def create(fps):
    return {"class_type": "CreateVideo", "inputs": {"images": ["2", 0], "audio": ["2", 1], "fps": fps}}


def rate_in(path):
    with av.open(str(path)) as file:
        return file.streams.video[0].average_rate


@pytest.mark.parametrize("kind", ["mp4", "mkv", "webm"])
@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(30000, 1001), Fraction(60000, 1001)])
def test_through_the_core_nodes_and_ours(tmp_path, monkeypatch, kind, rate):
    monkeypatch.chdir(tmp_path)
    make_video(tmp_path / f"clip.{kind}", [numbered(i) for i in range(12)], rate,
               "libvpx-vp9" if kind == "webm" else "libx264", sound=True)
    LOAD["inputs"]["file"] = f"clip.{kind}"
    for middle, fps, meant in ((PARTS, ["2", 2], rate), (PARTS, round(float(rate), 2), rate),
                               (frames_of(1), ["2", 2], rate), (frames_of(2), ["2", 2], rate / 2)):  # fmt: skip
        run = run_standalone({"1": LOAD, "2": middle, "3": create(fps), "4": SAVE}, tmp_path / "out")
        assert rate_in(run.saved[0]) == meant, (middle["class_type"], fps)
