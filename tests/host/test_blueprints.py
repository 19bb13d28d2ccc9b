"""The blueprints in the host's own editor: found in its search, put down, run between a LoadVideo and a SaveVideo."""

from __future__ import annotations

import json
import time

import frontend
import pytest
import torch
from steadyedit.toyworld.models import weights_path
from steadyedit.toyworld.world.rendering import render
from steadyedit.toyworld.world.scene import sample_scene
from steadyedit.video.read import read_clip
from steadyedit.video.write import write_clip

NAMES = sorted(path.stem for path in frontend.BLUEPRINTS.glob("*.json"))
ENDS = {
    "1": {"class_type": "LoadVideo", "inputs": {"file": "clip.mp4"}, "_meta": {"title": "Load"}},
    "2": {"class_type": "SaveVideo", "inputs": {"filename_prefix": "edited", "format": "mp4", "codec": "auto"},
          "_meta": {"title": "Save"}},
}  # fmt: skip
trained = pytest.mark.skipif(
    not all(weights_path(name).is_file() for name in ("editor", "sam", "grounder")),
    reason="the toy models are not trained yet")


@pytest.fixture(scope="module")
def scene():
    return render(sample_scene(80, "demo", frames=6, size=128))


@pytest.fixture(scope="module", autouse=True)
def clip(started, scene):
    """The video that LoadVideo loads."""
    if not started.ask("/global_subgraphs"):
        pytest.skip("this host does not know blueprints")
    sound = torch.sin(torch.arange(33075) * 0.05).expand(1, 2, -1)
    write_clip(started.input / "clip.mp4", scene.frames, 8, {"waveform": sound, "sample_rate": 44100})


def between(editor, name, **smaller):
    """LoadVideo, the blueprint, SaveVideo, connected; what the blueprint's node shows. ``smaller``: values by the
    type of a node inside, for a quick run."""
    frontend.load_api(editor, ENDS)
    graph, made = frontend.saved(editor), json.loads((frontend.BLUEPRINTS / f"{name}.json").read_text(encoding="utf-8"))
    (node,) = made["nodes"]
    for inner in made["definitions"]["subgraphs"][0]["nodes"]:
        values = dict(zip(inner.get("widgets_values_named", {}), inner.get("widgets_values", [])))
        inner["widgets_values"] = list((values | smaller.get(inner["type"], {})).values())
    graph["nodes"].append({**node, "id": 10, "pos": [400, 0]})
    frontend.load_ui(editor, {**graph, "last_node_id": 10, "definitions": made["definitions"]})
    return editor.evaluate("""() => {
        const named = (type) => app.graph.nodes.find((n) => n.type === type);
        const node = app.graph.nodes.find((n) => n.isSubgraphNode?.());
        named('LoadVideo').connect(0, node, node.inputs.findIndex((i) => i.name === 'video'));
        node.connect(node.outputs.findIndex((o) => o.name === 'video'), named('SaveVideo'), 0);
        return { title: node.title, inputs: node.inputs.filter((i) => !i.widget).map((i) => [i.name, i.type]),
          outputs: node.outputs.map((o) => [o.name, o.type]), widgets: node.widgets.map((w) => w.name) };
    }""")


def test_a_blueprint_is_found_by_the_search_and_put_down(editor):
    frontend.load_api(editor, ENDS)
    editor.evaluate("() => { app.canvas.ds.scale = 1; app.canvas.ds.offset = [100, 100] }")
    editor.mouse.dblclick(900, 700)
    editor.wait_for_function("() => document.activeElement?.tagName === 'INPUT'")
    editor.keyboard.type("edit a video", delay=30)
    # The row's text is cut into what was typed and the rest.
    for name in NAMES:
        if name.startswith("Edit a video"):
            editor.wait_for_function("(rest) => document.body.innerText.includes(rest)",
                                     arg=name.removeprefix("Edit a video"), timeout=120_000)
    editor.keyboard.press("Enter")
    editor.wait_for_timeout(1000)
    editor.mouse.click(800, 200)
    editor.wait_for_function("() => app.graph.nodes.some((n) => n.isSubgraphNode?.() && n.title.startsWith('Edit a'))")


@pytest.mark.parametrize("name", NAMES)
def test_a_blueprint_shows_few_widgets_and_queues_as_its_api_form(editor, name):
    api = json.loads((frontend.BLUEPRINTS / "api" / f"{name}.json").read_text(encoding="utf-8"))
    shown = api.pop("_blueprint")
    node = between(editor, name)
    assert node["title"] == name
    assert [field for field, _ in node["inputs"]] == list(shown["inputs"])
    assert [field for field, _ in node["outputs"]] == list(shown["outputs"])
    assert node["widgets"] == [label for *_, label in shown["widgets"]] and len(node["widgets"]) <= 8
    assert ["video", "VIDEO"] in node["inputs"] and ["video", "VIDEO"] in node["outputs"]
    queued = frontend.exported(editor)
    # The frontend may give nodes inside other numbers: they are known by their titles.
    inside = {node["_meta"]["title"]: node for key, node in queued.items() if ":" in key}
    assert inside.keys() == {node["_meta"]["title"] for node in api.values()} and len(inside) == len(api)
    ends = {(key, field) for targets in shown["inputs"].values() for key, field in targets}
    for key, node in api.items():
        found = inside[node["_meta"]["title"]]
        assert found["class_type"] == node["class_type"]
        # Newer hosts give core nodes more widgets than the graph names.
        for field, value in node["inputs"].items():
            assert titled(queued, found["inputs"][field]) == titled(api, value), (node["_meta"]["title"], field)
        assert all(field in found["inputs"] for end, field in ends if end == key and field == "video")


def titled(graph, value):
    """A link by its source's title; a value as it is."""
    return (graph[value[0]]["_meta"]["title"], value[1]) if isinstance(value, list) else value


def run(editor, started, **values):
    """Set widgets of the blueprint, queue; the saved video."""
    editor.evaluate("""(values) => {
        const node = app.graph.nodes.find((n) => n.isSubgraphNode?.());
        for (const [name, value] of Object.entries(values)) node.widgets.find((w) => w.name === name).value = value;
    }""", values)
    before = set(started.ask("/history"))
    editor.evaluate("async () => { await app.queuePrompt(0, 1) }")
    end = time.monotonic() + 400
    while time.monotonic() < end:
        for key, found in started.ask("/history").items():
            if key not in before:
                assert found["status"]["status_str"] == "success", started.tail()
                return read_clip(max(started.output.rglob("edited_*.mp4")))
        time.sleep(0.5)
    raise AssertionError(started.tail())


@trained
def test_three_nodes_mask_a_toy_clip(editor, started, scene):
    """What is green over the fish, and nowhere else, is the mask."""
    between(editor, "Mask an object in a video")
    seen = run(editor, started, object="the green fish")
    assert seen.frames.shape == scene.frames.shape and seen.fps == 8 and seen.audio is not None
    changed = (seen.frames - scene.frames).abs().amax(-1) > 0.12
    true = scene.masks[0] > 0.5
    assert changed[true].float().mean() > 0.7 and changed[~true].float().mean() < 0.02


@trained
def test_three_nodes_edit_a_toy_clip(editor, started, scene):
    """From the search to an edited video with the source's sound, and no wire but the video's."""
    between(editor, "Toy - edit a video by an instruction", SteadyEditRootCandidates={"count": 1, "steps": 5},
            SteadyEditTestTimeAdapt={"variants": 4}, BasicScheduler={"steps": 5}, SteadyEditPickRoot={"index": 1})
    edited = run(editor, started, **{"instruction": "turn the green fish blue", "frames (0: all)": 4,
                                     "adaptation steps": 2})
    assert edited.frames.shape == (4, 128, 128, 3) and edited.fps == 8
    assert edited.audio is not None and edited.audio["waveform"].abs().max() > 0.5
    assert torch.isfinite(edited.frames).all()
    difference = (edited.frames - scene.frames[:4]).abs().mean()
    assert 0.02 < difference < 0.3, "neither the source nor noise"
