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
from steadyedit.streaming.store import WindowStore
from steadyedit.toyworld import render, sample_scene
from steadyedit.video import write
from steadyedit.video.read import read_clip
from steadyedit.video.write import write_clip
from tolerances import RUN

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


def test_windows_give_the_video_of_one_piece(video, tmp_path, monkeypatch):
    given, before = {}, write._picture
    for name, more in (("whole", ()), ("streamed", ("--stream", "4"))):
        (tmp_path / name).mkdir()
        pictures = given[name] = []

        def picture(frame, pictures=pictures):
            pictures.append(frame.clone())
            return before(frame)

        monkeypatch.setattr(write, "_picture", picture)
        assert run(round_trip(video), tmp_path / name, *more) == 0
        monkeypatch.undo()
    whole, streamed = (read_clip(tmp_path / name / "out" / "edited_00001_.mp4") for name in ("whole", "streamed"))
    assert len(streamed.frames) == FRAMES and streamed.fps == whole.fps
    assert streamed.audio["waveform"].shape == whole.audio["waveform"].shape
    # Before the codec, which makes more of a level's difference; a level is what windows round to, and one more is
    # what a batch of another size computes otherwise.
    assert (torch.stack(given["streamed"]) - torch.stack(given["whole"])).abs().max() <= 1.01 / 255


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
    assert len(list(tmp_path.glob("out/.*.windows/*.window"))) == 2
    calls.clear()
    assert run(round_trip(video), tmp_path, "--stream", "4") == 0
    # What sees no frame, and the one window that was missing.
    assert len(calls) == 2
    assert len(read_clip(tmp_path / "out" / "edited_00001_.mp4").frames) == FRAMES
    assert not list(tmp_path.glob("out/.*"))


def test_another_file_of_the_name_is_told_and_the_windows_of_the_first_one_stay(video, tmp_path, monkeypatch, caplog):
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(video.read_bytes())
    keep, kept = WindowStore.keep, []

    def stopped(store, window, frames):
        keep(store, window, frames)
        kept.append(window)
        if len(kept) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(WindowStore, "keep", stopped)
    assert run(round_trip(clip), tmp_path, "--stream", "4") == 130
    clip.write_bytes(video.read_bytes() + b"0")
    assert run(round_trip(clip), tmp_path, "--stream", "4") == 0
    (said,) = [record.getMessage() for record in caplog.records if "another file" in record.getMessage()]
    assert said.startswith(f"video: {clip} is another file than when") and "2 finished windows" in said
    assert "\n" not in said and len(list(tmp_path.glob("out/.*.windows/*.window"))) == 2
    clip.write_bytes(video.read_bytes())
    assert run(round_trip(clip), tmp_path, "--stream", "3") == 0
    # The windows of the first one, and what they lack, in windows of another size.
    assert [(window.first, window.count) for window in kept] == [(0, 4), (4, 4), (0, 4), (4, 4), (8, 3), (8, 3)]


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


@pytest.fixture
def blended(video, tmp_path, monkeypatch):
    """Run the file through inversion and blend in two windows; stops by Ctrl-C before a step or a node, if told so."""
    from steadyedit.backends.diffusers import DiffusersBackend
    from steadyedit.standalone.host_api import ComfyNode, NodeOutput, Output, Schema
    from steadyedit.standalone.run import known_nodes

    known, invert = known_nodes(), DiffusersBackend.invert

    class HalfMask(ComfyNode):
        @classmethod
        def define_schema(cls):
            return Schema("HalfMask", [], [Output("MASK")])

        @classmethod
        def execute(cls):
            return NodeOutput((torch.arange(64) < 32).float().expand(1, 64, 64))

    graph = round_trip(video) | {
        "3": {"class_type": "SteadyEditToyEditor", "inputs": {}},
        "10": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["3", 1], "text": ""}},
        "11": {"class_type": "SteadyEditDDIMInversion",
               "inputs": {"model": ["3", 0], "conditioning": ["18", 1], "latent": ["4", 0], "steps": 4,
                          "refinement": 0}},
        "12": {"class_type": "HalfMask", "inputs": {}},
        "13": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
        "14": {"class_type": "SteadyEditBoundaryBlend",
               "inputs": {"sampler": ["13", 0], "inverted": ["11", 0], "mask": ["12", 0], "blend": "ramp",
                          "reading": "A", "ramp_steps": 0, "soft_mask": True}},
        "15": {"class_type": "BasicGuider", "inputs": {"model": ["3", 0], "conditioning": ["18", 0]}},
        "16": {"class_type": "DisableNoise", "inputs": {}},
        "17": {"class_type": "SamplerCustomAdvanced",
               "inputs": {"noise": ["16", 0], "guider": ["15", 0], "sampler": ["14", 0], "sigmas": ["11", 1],
                          "latent_image": ["11", 0]}},
        "18": {"class_type": "InstructPixToPixConditioning",
               "inputs": {"positive": ["10", 0], "negative": ["10", 0], "vae": ["3", 2], "pixels": ["2", 0]}},
    }  # fmt: skip
    graph["5"]["inputs"]["samples"] = ["17", 0]

    def go(name: str, stop_step: int = 0, stop_window: int = 0) -> tuple[int, int, list[str], Path]:
        (tmp_path / name).mkdir(exist_ok=True)
        steps, windows, maps = [], [], []

        def counted(*args):
            steps.append(1)
            if len(steps) == stop_step:
                raise KeyboardInterrupt
            return invert(*args)

        class Sampled(known["SamplerCustomAdvanced"]):
            @classmethod
            def execute(cls, **inputs):
                windows.append(1)
                maps.extend({line.split()[-1] for line in open("/proc/self/maps") if "trajectory_11/step_" in line})
                if len(windows) == stop_window:
                    raise KeyboardInterrupt
                return super().execute(**inputs)

        monkeypatch.setattr(DiffusersBackend, "invert", lambda self, *args: counted(self, *args))
        monkeypatch.setattr(streaming, "known_nodes",
                            lambda: {**known, "HalfMask": HalfMask, "SamplerCustomAdvanced": Sampled})
        return run(graph, tmp_path / name, "--stream", "6"), len(steps), maps, tmp_path / name / "out"

    return go


@pytest.mark.parametrize("stop", [{"stop_step": 7}, {"stop_window": 2}], ids=["in the inversion", "before sampling"])
def test_a_window_goes_on_in_its_inversion(blended, stop):
    """Two windows of 4 steps of inversion: stopped in the second, what is on disk is not inverted again."""
    code, whole, maps, out = blended("whole")
    assert (code, whole) == (0, 8)
    # Both windows' five levels were mapped, and nothing is left of them.
    assert len(maps) == 10 and not list(out.glob(".*"))
    code, before, _, cut = blended("cut", **stop)
    assert code == 130 and len(list(cut.glob(".*.windows/*.window"))) == 1
    code, after, *_ = blended("cut")
    assert code == 0 and after == 8 - (before - ("stop_step" in stop))
    first, second = (read_clip(folder / "edited_00001_.mp4").frames for folder in (out, cut))
    assert torch.equal(first, second) and not list(cut.glob(".*"))


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
    keep, kept = WindowStore.keep, {}
    for window in (FRAMES, 3):
        frames = []

        def kept_too(store, window, images, frames=frames):
            frames.append(images)
            keep(store, window, images)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(WindowStore, "keep", kept_too)
            streaming.stream(graph, video.parent / f"windows of {window}", window)
        kept[window] = torch.cat(frames)
    assert len(kept[3]) == FRAMES
    # Not a still: the frames differ from each other by far more than the two ways do.
    assert (kept[3][0] - kept[3][-1]).abs().max() > 0.1
    torch.testing.assert_close(kept[3], kept[FRAMES], atol=RUN, rtol=0)
