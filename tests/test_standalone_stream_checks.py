"""What is edited in windows is exact, or refused with the name of the node that looks at the whole clip."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from steadyedit.methods.registry import METHODS
from steadyedit.methods.tuned_weights import TunedWeights, save_tuned
from steadyedit.standalone import stream as streaming
from steadyedit.standalone.graph import GraphError, is_link, put_video, read_graph
from steadyedit.standalone.run import known_nodes
from steadyedit.standalone.windowed import roots_of
from steadyedit.streaming.store import WindowStore
from steadyedit.toyworld import render, sample_scene
from steadyedit.video.write import write_clip
from tolerances import CODEC, RUN

GRAPHS = Path(streaming.__file__).parents[1] / "workflows" / "api"
FRAMES = 7

pytestmark = pytest.mark.skipif("comfy_api" in sys.modules, reason="a host is loaded in this process")


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    return write_clip(path, render(sample_scene(3, "demo", frames=FRAMES, size=64)).frames, Fraction(8))


def sampled(video, **more) -> dict:
    """Frames of a file, sampled for two steps by the toy model from one noise."""
    return {
        "1": {"class_type": "LoadVideo", "inputs": {"file": str(video)}},
        "2": {"class_type": "SteadyEditLoadFrames",
              "inputs": {"video": ["1", 0], "start": 0, "count": 0, "stride": 1, "size": 64}},
        "3": {"class_type": "SteadyEditToyModel", "inputs": {}},
        "4": {"class_type": "VAEEncode", "inputs": {"pixels": ["2", 0], "vae": ["3", 2]}},
        "fixed": {"class_type": "LatentBatchSeedBehavior", "inputs": {"samples": ["4", 0], "seed_behavior": "fixed"}},
        "text": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["3", 1], "text": "a ball"}},
        "sampler": {"class_type": "KSampler",
                    "inputs": {"model": ["3", 0], "seed": 1, "steps": 1, "cfg": 2.0, "sampler_name": "euler",
                               "scheduler": "normal", "positive": ["text", 0], "negative": ["text", 0],
                               "latent_image": ["fixed", 0], "denoise": 0.5}},
        "5": {"class_type": "VAEDecode", "inputs": {"samples": ["sampler", 0], "vae": ["3", 2]}},
        "6": {"class_type": "CreateVideo", "inputs": {"images": ["5", 0], "fps": ["2", 2]}},
        "7": {"class_type": "SaveVideo", "inputs": {"video": ["6", 0], "filename_prefix": "edited", "format": "mp4"}},
        **more,
    }  # fmt: skip


def pictures(graph, folder, window, monkeypatch) -> torch.Tensor:
    """The frames before the codec."""
    kept, keep = [], WindowStore.keep
    with monkeypatch.context() as patch:
        patch.setattr(WindowStore, "keep", lambda *given: (kept.append(given[2]), keep(*given)))
        streaming.stream(graph, folder, window)
    return torch.cat(kept)


def refusal(graph, folder) -> str:
    with pytest.raises(GraphError) as caught:
        streaming.stream(graph, folder, 3)
    said = str(caught.value)
    assert "\n" not in said and not list(Path(folder).glob("**/*.mp4"))
    return said


@pytest.mark.parametrize("setting", [{"timing": "finest rate"}, {"timing": "every picture"}, {"length": "4N + 1"}])
def test_frames_that_streaming_would_count_otherwise_are_refused(video, tmp_path, setting):
    graph = sampled(video)
    graph["2"]["inputs"].update(setting)
    (name,) = setting
    assert refusal(graph, tmp_path).startswith(f"node 2: {name}: '{setting[name]}' is not known to streaming")


def test_what_works_frame_by_frame_is_exact(video, tmp_path, monkeypatch):
    whole, cut = (pictures(sampled(video), tmp_path / str(n), n, monkeypatch) for n in (FRAMES, 3))
    torch.testing.assert_close(cut, whole, atol=RUN, rtol=0)


@pytest.mark.parametrize("node", ["SteadyEditSTAM", "SteadyEditFFAM", "SteadyEditSparseCausal",
                                  "SteadyEditTemporalAttention", "SteadyEditSimDA", "SteadyEditRAVE"])
def test_methods_that_look_at_the_whole_clip_are_refused(node, video, tmp_path):
    settings = {"SteadyEditFFAM": {"ratio": 2, "blocks": "all"},
                "SteadyEditRAVE": {"grid": 2, "seed": 0, "shuffle": True, "chunk": 0}}.get(node, {})
    graph = sampled(video, method={"class_type": node, "inputs": {"model": ["3", 0], **settings}})
    graph["sampler"]["inputs"]["model"] = ["method", 0]
    assert f'--stream: node method "{node}" has' in refusal(graph, tmp_path)


def test_every_method_has_a_node_that_names_it_or_trains_it():
    named = {kind.METHOD for kind in known_nodes().values() if hasattr(kind, "METHOD")}
    whole = {slug for slug, method in METHODS.items() if method.traits.needs_whole_clip}
    assert whole - named == {"full-attention", "joint-norms"}


def test_methods_in_a_file_are_refused(video, tmp_path, monkeypatch):
    monkeypatch.setenv("STEADYEDIT_WEIGHTS", str(tmp_path / "weights"))
    methods = [{"method": "sparse-causal", "config": {}}]
    save_tuned(tmp_path / "weights" / "t.safetensors", TunedWeights({}, {"version": 1, "methods": methods}))
    graph = sampled(video, method={"class_type": "SteadyEditLoadTuned",
                                   "inputs": {"model": ["3", 0], "name": "t.safetensors"}})
    graph["sampler"]["inputs"]["model"] = ["method", 0]
    assert 'node method "SteadyEditLoadTuned" has sparse-causal' in refusal(graph, tmp_path)
    graph["method"]["inputs"]["name"] = "none.safetensors"
    assert "name: 'none.safetensors' is not in" in refusal(graph, tmp_path)


@pytest.mark.parametrize("name", sorted(path.stem for path in GRAPHS.glob("toy_*.json")))
def test_shipped_graphs_stream_exactly_or_are_refused_by_name(name, video, tmp_path):
    """All but VIA's train on the clip, mix its frames, or track through it."""
    graph = read_graph(GRAPHS / f"{name}.json")
    put_video(graph, str(video), whole=True)
    if name == "toy_via_global":
        return
    said = refusal(graph, tmp_path)
    assert said.startswith("--stream: node ") and ("run it without --stream" in said or "from a video file" in said)


def test_trained_anew_in_every_window_is_refused(video, tmp_path):
    tune = {"class_type": "SteadyEditNormTune",
            "inputs": {"model": ["3", 0], "latent": ["4", 0], "conditioning": ["text", 0]}}
    graph = sampled(video, tune=tune)
    graph["sampler"]["inputs"]["model"] = ["tune", 0]
    assert 'node tune "SteadyEditNormTune" looks at the whole clip' in refusal(graph, tmp_path)


@pytest.mark.parametrize(("change", "sentence"), [
    ({"latent_image": ["4", 0]}, "gives every frame noise of its own"),
    ({"sampler_name": "euler_ancestral"}, "the sampler euler_ancestral draws new noise at every step"),
])  # fmt: skip
def test_noise_that_would_differ_by_window_is_refused(change, sentence, video, tmp_path):
    graph = sampled(video)
    graph["sampler"]["inputs"] |= change
    assert sentence in refusal(graph, tmp_path)


def test_values_for_more_than_one_frame_are_refused(video, tmp_path):
    """One prompt a frame of the whole clip would be one a frame of every window."""
    text = {"class_type": "SteadyEditPerFrameConditioning",
            "inputs": {"clip": ["3", 1], "text": "a\nb\nc", "spread": False}}
    graph = sampled(video, text=text)
    assert 'node text "SteadyEditPerFrameConditioning" gives 3 frames to input' in refusal(graph, tmp_path)


def test_a_setting_that_votes_over_time_is_refused(video, tmp_path):
    from steadyedit.standalone.stream_checks import check_nodes

    graph = {"m": {"class_type": "SteadyEditMaskRefine", "inputs": {"smooth": 0}}}
    check_nodes(graph, known_nodes(), {"m"})
    graph["m"]["inputs"]["smooth"] = 2
    with pytest.raises(GraphError, match="smooth 2 looks at other frames of the clip; set it to 0"):
        check_nodes(graph, known_nodes(), {"m"})


def test_the_root_is_the_frame_that_the_whole_clip_would_give(video, tmp_path, monkeypatch):
    """Drawn by its seed among all frames, not among the four of the group; its number is the clip's."""
    graph = read_graph(GRAPHS / "toy_via_global.json")
    put_video(graph, str(video), whole=True)
    root = next(key for key, node in graph.items() if node["class_type"] == "SteadyEditRootCandidates")
    source = graph[root]["inputs"]["images"][0]
    given = {}

    class Stop(Exception):
        pass

    kind = known_nodes()["SteadyEditRootCandidates"]

    def execute(cls, images, frame, **inputs):
        given.update(picture=images[frame], count=len(images), frame=frame)
        raise Stop

    monkeypatch.setattr(streaming, "known_nodes", lambda: {**known_nodes(), "SteadyEditRootCandidates": type(
        "Watched", (kind,), {"execute": classmethod(execute)})})
    for frame in (-1, 5):
        graph[root]["inputs"] |= {"frame": frame, "seed": 3}

        class Source:
            key = source

        wanted = roots_of(graph, [Source], FRAMES)[root]
        with pytest.raises(Stop):
            streaming.stream(graph, tmp_path, 3)
        from steadyedit.video.read import read_clip

        assert given["frame"] == given["count"] - 1
        torch.testing.assert_close(given["picture"][::4, ::4].mean(), _cropped(read_clip(video).frames[wanted]),
                                   atol=CODEC, rtol=0)
    graph[root]["inputs"]["frame"] = FRAMES
    assert "the clip has 7 frames" in refusal(graph, tmp_path)
    assert not any(is_link(v) and v == [root, 3] for n in graph.values() for v in n["inputs"].values())


def _cropped(picture):
    return picture[::2, ::2].mean()
