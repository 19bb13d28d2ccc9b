"""Videos edited window by window."""

from __future__ import annotations

import json
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from steadyedit.standalone import stream as streaming
from steadyedit.standalone.cli import main
from steadyedit.standalone.graph import GraphError, put_video, read_graph
from steadyedit.toyworld import render, sample_scene
from steadyedit.video.read import read_clip
from steadyedit.video.write import write_clip

FRAMES = 11

pytestmark = pytest.mark.skipif("comfy_api" in sys.modules, reason="a host is loaded in this process")


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    scene = sample_scene(3, "demo", frames=FRAMES, size=64)
    tone = {"waveform": torch.sin(torch.arange(8000 * 2) / 9)[None, None] / 2, "sample_rate": 8000}
    return write_clip(path, render(scene).frames, Fraction(8), tone)


def round_trip(video) -> dict:
    """Frames of a file through the toy autoencoder into a file."""
    return {
        "1": {"class_type": "LoadVideo", "inputs": {"file": str(video)}},
        "2": {"class_type": "SteadyEditLoadFrames",
              "inputs": {"video": ["1", 0], "start": 0, "count": 0, "stride": 1, "size": 64}},
        "3": {"class_type": "SteadyEditToyModel", "inputs": {}},
        "4": {"class_type": "VAEEncode", "inputs": {"pixels": ["2", 0], "vae": ["3", 2]}},
        "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["3", 2]}},
        "6": {"class_type": "CreateVideo", "inputs": {"images": ["5", 0], "fps": ["2", 2], "audio": ["2", 1]}},
        "7": {"class_type": "SaveVideo",
              "inputs": {"video": ["6", 0], "filename_prefix": "edited", "format": "mp4", "codec": "auto"}},
    }  # fmt: skip


def run(graph: dict, folder, *more: str) -> int:
    path = folder / "graph.json"
    path.write_text(json.dumps(graph))
    return main(["run", str(path), "--output", str(folder / "out"), *more])


def test_windows_give_the_video_of_one_piece(video, tmp_path):
    for name, more in (("whole", ()), ("streamed", ("--stream", "4"))):
        (tmp_path / name).mkdir()
        assert run(round_trip(video), tmp_path / name, *more) == 0
    whole, streamed = (read_clip(tmp_path / name / "out" / "edited_00001_.mp4") for name in ("whole", "streamed"))
    assert len(streamed.frames) == FRAMES and streamed.fps == whole.fps
    assert streamed.audio["waveform"].shape == whole.audio["waveform"].shape
    # The codec sees the same 8-bit pictures, but for rounding of what a batch of another size computes.
    assert (streamed.frames - whole.frames).abs().max() < 0.03


def test_a_cancelled_run_goes_on_after_its_last_window(video, tmp_path, monkeypatch):
    calls = []

    def counted(graph, nodes, *args, **kwargs):
        calls.append(kwargs)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return execute(graph, nodes, *args, **kwargs)

    execute = streaming.execute
    monkeypatch.setattr(streaming, "execute", counted)
    assert run(round_trip(video), tmp_path, "--stream", "4") == 130
    assert len(list(tmp_path.glob("out/.*.windows/*.npy"))) == 2
    calls.clear()
    assert run(round_trip(video), tmp_path, "--stream", "4") == 0
    # What sees no frame, and the one window that was missing.
    assert len(calls) == 2
    assert len(read_clip(tmp_path / "out" / "edited_00001_.mp4").frames) == FRAMES
    assert not list(tmp_path.glob("out/.*"))


def test_what_sees_no_frame_runs_once(video, tmp_path, monkeypatch):
    from steadyedit.standalone.run import known_nodes

    loaded = []
    nodes = known_nodes()

    class Counted(nodes["SteadyEditToyModel"]):
        @classmethod
        def execute(cls):
            loaded.append(1)
            return super().execute()

    monkeypatch.setattr(streaming, "known_nodes", lambda: {**nodes, "SteadyEditToyModel": Counted})
    assert run(round_trip(video), tmp_path, "--stream", "3") == 0
    assert loaded == [1]


def test_methods_that_look_at_all_frames_are_refused(video, tmp_path):
    graph = round_trip(video)
    graph["8"] = {"class_type": "SteadyEditSTAM", "inputs": {"model": ["3", 0]}}
    with pytest.raises(GraphError, match="SteadyEditSTAM.*without --stream"):
        streaming.stream(graph, tmp_path, 4)


def test_a_graph_without_a_file_is_refused(tmp_path, video):
    graph = round_trip(video)
    graph["2"] = {"class_type": "SteadyEditToyClip", "inputs": {}}
    with pytest.raises(GraphError, match="--video"):
        streaming.stream(graph, tmp_path, 4)


@pytest.mark.parametrize("window", [0, -3])
def test_a_window_holds_a_frame(video, tmp_path, window):
    with pytest.raises(GraphError, match="--stream: expected 1"):
        streaming.stream(round_trip(video), tmp_path, window)


def test_one_window_in_memory(video, tmp_path, monkeypatch):
    most = []

    def looked(images):
        most.append(len(images))
        return as_frames(images)

    as_frames = streaming.as_frames
    monkeypatch.setattr(streaming, "as_frames", looked)
    assert run(round_trip(video), tmp_path, "--stream", "2") == 0
    assert max(most) == 2


def test_gather_swap_in_windows_is_gather_swap_on_the_whole_clip(video):
    """The group's frames at the head of each window, and one noise: what a frame sees is the same."""
    graph = read_graph(Path(streaming.__file__).parents[1] / "workflows" / "api" / "toy_via_global.json")
    adapted = next(key for key, node in graph.items() if node["class_type"] == "SteadyEditTestTimeAdapt")
    editor = next(key for key, node in graph.items() if node["class_type"] == "SteadyEditToyEditor")
    for node in graph.values():
        if node["inputs"].get("model") == [adapted, 0]:
            node["inputs"]["model"] = [editor, 0]
        if node["class_type"] == "BasicScheduler":
            node["inputs"]["steps"] = 3
        if node["class_type"] == "SteadyEditToyClip":
            node["inputs"]["size"] = 64
    put_video(graph, str(video), whole=True)
    keep, kept = streaming.keep, {}
    for window in (FRAMES, 3):
        frames = []

        def kept_too(path, images, frames=frames):
            frames.append(images)
            keep(path, images)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(streaming, "keep", kept_too)
            streaming.stream(graph, video.parent / f"windows of {window}", window)
        kept[window] = torch.cat(frames)
    assert len(kept[3]) == FRAMES
    # Not a still: the frames differ from each other by far more than the two ways do.
    assert (kept[3][0] - kept[3][-1]).abs().max() > 0.1
    torch.testing.assert_close(kept[3], kept[FRAMES], atol=1e-3, rtol=0)
