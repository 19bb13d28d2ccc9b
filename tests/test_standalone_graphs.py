"""The toy graph from end to end without a host, on untrained models: the plumbing, not the pictures."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from steadyedit.backends.diffusers import DiffusersModel
from steadyedit.standalone import demo
from steadyedit.standalone.graph import CLIP, GraphError, put_video, read_graph
from steadyedit.standalone.run import known_nodes, run_standalone
from steadyedit.toyworld import models
from steadyedit.video.read import read_clip
from steadyedit.video.write import write_clip
from tolerances import RUN

FRAMES, SIZE = 3, 64

pytestmark = [pytest.mark.skipif("comfy_api" in sys.modules, reason="a host is loaded in this process"),
              pytest.mark.usefixtures("untrained")]


@pytest.fixture
def graph():
    """The shipped graph, smaller and shorter."""
    graph = read_graph(demo.GRAPH)
    for node in graph.values():
        inputs = node["inputs"]
        if node["class_type"] == CLIP:
            inputs.update(frames=FRAMES, size=SIZE)
        if "steps" in inputs:
            inputs["steps"] = 2
    return graph


def of_class(graph, name):
    return next(key for key, node in graph.items() if node["class_type"] == name)


def test_the_shipped_graph_runs_and_tunes_once(graph, tmp_path):
    first = run_standalone(graph, tmp_path / "out")
    (saved,) = first.saved
    clip = read_clip(saved)
    assert clip.frames.shape == (FRAMES, SIZE, SIZE, 3) and float(clip.fps) == 8
    tune = of_class(graph, "SteadyEditOneShotTune")
    assert len(first.results[tune][2]["loss"]) == 2
    again = run_standalone(graph, tmp_path / "out")
    assert again.saved[0] != saved
    for name, tensor in first.results[tune][1].tensors.items():
        assert torch.equal(tensor, again.results[tune][1].tensors[name])
    decode = of_class(graph, "VAEDecode")
    assert torch.equal(first.results[decode][0], again.results[decode][0])


def test_models_that_come_in_are_not_changed(graph, tmp_path):
    run = run_standalone(graph, tmp_path)
    model = run.results[of_class(graph, "SteadyEditToyModel")][0]
    assert isinstance(model, DiffusersModel) and model.attachments == () and model.query_deltas == {}
    fresh = models.load("unet").state_dict()
    assert all(torch.equal(fresh[name], value) for name, value in model.unet.state_dict().items())


def test_sound_and_rate_of_a_file_survive(graph, tmp_path):
    rate, seconds = 24000, FRAMES / 12
    tone = torch.sin(torch.arange(int(rate * seconds)) / 20).expand(1, 2, -1) * 0.5
    write_clip(tmp_path / "in.mp4", torch.rand(FRAMES, 48, 80, 3), 12, audio={"waveform": tone, "sample_rate": rate})
    put_video(graph, str(tmp_path / "in.mp4"))
    run = run_standalone(graph, tmp_path / "out")
    clip = read_clip(run.saved[0])
    assert float(clip.fps) == 12 and clip.frames.shape[1:3] == (SIZE, SIZE)
    assert clip.audio is not None and clip.audio["waveform"].abs().mean() > 0.1


def test_the_rival_graph_runs(graph, tmp_path):
    plain = demo.without_methods(graph)
    ran = run_standalone(plain, tmp_path)
    assert not {demo.TUNE, demo.STAM, demo.FFAM} & {plain[key]["class_type"] for key in ran.results}


@pytest.mark.parametrize(("node", "field", "value", "sentence"), [
    ("SteadyEditFFAM", "ratio", 0, "ratio' is 0"),
    ("SteadyEditFFAM", "ratio", 16, "ratio: 16 is larger"),
    (CLIP, "size", 65, "65"),
    ("KSamplerSelect", "sampler_name", "magic", "sampler_name' is 'magic'; it takes euler"),
    ("SteadyEditDDIMInversion", "steps", 1000, "steps' is 1000"),
])  # fmt: skip
def test_bad_settings_are_one_sentence(graph, tmp_path, node, field, value, sentence):
    graph[of_class(graph, node)]["inputs"][field] = value
    with pytest.raises(GraphError) as caught:
        run_standalone(graph, tmp_path)
    assert sentence in str(caught.value) and str(caught.value).startswith("node ") and "\n" not in str(caught.value)


def test_every_node_of_the_pack_is_known():
    known = known_nodes()
    assert {"SteadyEditToyModel", "SteadyEditSTAM", "SteadyEditSaveTuned", "SaveVideo"} <= known.keys()
    for name, node in known.items():
        schema = node.GET_SCHEMA()
        assert schema.node_id == name and len({wanted.id for wanted in schema.inputs}) == len(schema.inputs)


def test_demo_measures(tmp_path):
    from steadyedit.standalone.render import clip_and_answer

    clip, answer, edit = clip_and_answer({"seed": 3, "edit": "colour", "frames": FRAMES, "size": SIZE})
    true, unedited = (demo.measure(frames, clip, answer, edit) for frames in (answer.frames, clip.frames))
    assert true.truth > 90 and unedited.background > 90 and unedited.truth < 40
    assert true.frames == FRAMES and "to the truth" in str(true)
    assert true.flicker < RUN < unedited.flicker
    table = demo.report([("EI2", unedited, 12.0), ("truth", true, 0.0)])
    assert "EI2" in table and "12" in table


def test_a_long_name_on_the_contact_sheet_ends_before_the_first_picture(tmp_path):
    from PIL import Image
    from steadyedit.video.sheet import GAP, LEFT, contact_sheet

    contact_sheet(tmp_path / "sheet.png", "", [("tune-a-video-per-frame-keyframes", "", torch.ones(1, 8, 8, 3))])
    with Image.open(tmp_path / "sheet.png") as page:
        ink = np.argwhere(np.array(page.convert("L")) < 200)
    assert len(ink) > 500 and LEFT - 6 * GAP < ink[:, 1].max() < LEFT - GAP + 1


def test_contact_sheet_is_a_picture_of_all_rows(tmp_path):
    from PIL import Image
    from steadyedit.video.sheet import contact_sheet

    path = tmp_path / "deep" / "sheet.png"
    contact_sheet(path, "title", [("a", "1", torch.rand(2, 8, 16, 3)), ("b", "", torch.rand(3, 8, 8, 3))], side=64)
    picture = Image.open(path)
    assert picture.width > 3 * 64 and picture.height > 2 * 64


def test_words_are_edited_behind_null_text_inversion(tmp_path):
    """The shipped graph of Prompt-to-Prompt, short, on the stand-ins for the host's own nodes."""
    graph = read_graph(demo.GRAPH.parent / "toy_prompt_to_prompt.json")
    changes = {CLIP: {"frames": 2, "size": SIZE},
               "SteadyEditPromptToPrompt": {"weights": "a: 0.5", "blend_source": "a"},
               "SteadyEditNullTextInversion": {"steps": 2, "inner_steps": 1, "reuse": False}}
    for node in graph.values():
        node["inputs"].update(changes.get(node["class_type"], {}))
    run = run_standalone(graph, tmp_path)
    inversion, edit = (of_class(graph, f"SteadyEdit{name}") for name in ("NullTextInversion", "PromptToPrompt"))
    assert [text.shape[0] for text, _ in run.results[inversion][2]] == [2, 2]
    assert run.results[edit][0].attachments[0].method == "prompt-to-prompt"
    assert read_clip(run.saved[0]).frames.shape == (2, SIZE, SIZE, 3)
