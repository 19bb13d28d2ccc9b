"""``--host comfy``: a ComfyUI of its own runs a graph on a file, shows progress, and says what is wrong."""

from __future__ import annotations

import json
from contextlib import nullcontext

import pytest
import torch
from conftest import HOST
from steadyedit.standalone import cli, comfy_host
from steadyedit.video.read import read_clip
from steadyedit.video.write import write_clip

GRAPH = {
    "1": {"class_type": "LoadVideo", "inputs": {"file": "x.mp4"}, "_meta": {"title": "Clip"}},
    "2": {"class_type": "SteadyEditLoadFrames", "_meta": {"title": "Frames"},
          "inputs": {"video": ["1", 0], "start": 1, "count": 4, "stride": 1, "size": 64}},
    "3": {"class_type": "CreateVideo", "inputs": {"images": ["2", 0], "audio": ["2", 1], "fps": ["2", 2]}},
    "4": {"class_type": "SaveVideo",
          "inputs": {"video": ["3", 0], "filename_prefix": "a/b", "format": "mp4", "codec": "h264"}},
}  # fmt: skip


@pytest.fixture
def run(tmp_path, monkeypatch):
    graph = tmp_path / "graph.json"
    graph.write_text(json.dumps(GRAPH))
    frames = torch.linspace(0, 1, 6)[:, None, None, None].expand(6, 48, 80, 3)
    clip = write_clip(tmp_path / "clip.mp4", frames, 12)
    monkeypatch.setenv("COMFYUI_PATH", str(HOST))

    def call(*arguments):
        output = tmp_path / "output"
        options = ["--video", str(clip), "--output", str(output), "--host", "comfy", *arguments]
        return cli.main(["run", str(graph), *options]), output / "a" / "b_00001_.mp4"

    return call


def test_a_file_goes_through_the_host_and_comes_back(run, capfd):
    code, saved = run()
    said = capfd.readouterr()
    assert code == 0 and said.out.strip() == str(saved) and "Frames" in said.err
    clip = read_clip(saved)
    assert clip.fps == 12 and clip.frames.shape == (4, 64, 64, 3)
    assert clip.frames.mean((1, 2, 3)).tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8], abs=0.02)


@pytest.mark.parametrize(("setting", "sentence"), [
    ("Frames.cnt=4", "node 2 \"Frames\" has no input 'cnt'"),
    ("Frames.count=-4", "node 2 \"Frames\": input 'count'"),
    ("Frames.start=99", 'node 2 "Frames": '),
])  # fmt: skip
def test_mistakes_are_told_in_a_sentence(run, capfd, monkeypatch, started, setting, sentence):
    # In a ComfyUI that other tests have started: a start of their own takes longer than the rest of them.
    monkeypatch.setattr(comfy_host, "running", lambda *args, **kwargs: nullcontext(started))
    code, _ = run("--set", setting)
    assert code == 1
    assert sentence in capfd.readouterr().err
