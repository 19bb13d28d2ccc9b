"""Point Mask in the host's own editor, in headless Chromium: clicks become points, a queued run gives their mask."""

from __future__ import annotations

import json
import time
import urllib.request
from io import BytesIO

import frontend
import numpy as np
import pytest
import torch
from steadyedit.standalone.comfy_process import running
from steadyedit.vision.segmentation import load as loading
from steadyedit.vision.segmentation import names
from tiny_vision import TINY_SAM, shaken

pytest.importorskip("playwright", reason="the editor's tests need: pip install playwright")
if frontend.chromium() is None:
    pytest.skip("the editor's tests need a Chromium (apt install chromium)", allow_module_level=True)

GRAPH = {
    "1": {"class_type": "SteadyEditToyClip", "inputs": {"seed": 3, "frames": 2, "size": 64, "edit": "colour",
                                                         "split": "demo"}},
    "2": {"class_type": "SteadyEditSAMModel", "inputs": {"model": "tiny.pth", "precision": "float32"}},
    "3": {"class_type": "SteadyEditPointMask", "inputs": {
        "images": ["1", 0], "sam": ["2", 0], "frame": 1, "positive": "", "negative": "", "boxes": "",
        "on_nothing": "empty mask"}},
    "4": {"class_type": "MaskToImage", "inputs": {"mask": ["3", 0]}},
    "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "mask"}},
}  # fmt: skip
NODE = "app.graph.nodes.find((n) => n.type === 'SteadyEditPointMask')"
TEXTS = f"""() => Object.fromEntries({NODE}.widgets.filter((w) => ['positive', 'negative', 'boxes'].includes(w.name))
            .map((w) => [w.name, w.value]))"""


@pytest.fixture(scope="module")
def started(host, tmp_path_factory):
    with running(host, tmp_path_factory.mktemp("output"), editor=True) as process:
        models = process.input.parent / "models"
        # The process sees this folder; the installation behind the link is left alone.
        if models.is_symlink():
            models.unlink()
        (models / "sams").mkdir(parents=True)
        sam = shaken(lambda: loading.build_transformers(TINY_SAM))
        torch.save(names.to_official(sam.state_dict(), names.official_names(TINY_SAM)), models / "sams" / "tiny.pth")
        process.models = models
        yield process


@pytest.fixture(scope="module")
def editor(started):
    with frontend.page(f"http://127.0.0.1:{started.port}", 1600, 1000) as opened:
        opened.keyboard.press("Escape")
        yield opened


def queued(editor, started):
    """Queue what is on the canvas and wait for it; the run's outputs."""
    before = set(started.ask("/history"))
    editor.evaluate("async () => { await app.queuePrompt(0, 1) }")
    end = time.monotonic() + 240
    while time.monotonic() < end:
        for key, run in started.ask("/history").items():
            if key not in before and run["status"]["completed"]:
                return run["outputs"]
        time.sleep(0.5)
    raise AssertionError(started.tail())


def saved_mask(started, outputs):
    from PIL import Image

    (file,) = outputs["5"]["images"]
    url = f"http://127.0.0.1:{started.port}/view?filename={file['filename']}&type={file['type']}"
    with urllib.request.urlopen(url) as answer:
        return torch.from_numpy(np.array(Image.open(BytesIO(answer.read())).convert("L"))) > 127


def expected(started, **texts):
    """The mask of the same points, by the node in this process."""
    from steadyedit.nodes.pictures import Loaded
    from steadyedit.nodes.point_mask import PointMask
    from steadyedit.nodes.toy_clip import ToyClip

    segmenter = loading.load_segmenter(started.models / "sams" / "tiny.pth")
    images = ToyClip.execute(3, 2, 64, "colour", "demo")[0]
    sam = Loaded(segmenter, type("ManagedModel", (), {"load": lambda self, memory=0: None})(), "tiny")
    return PointMask.execute(images, sam, 1, **texts, on_nothing="empty mask")[0][0] > 0.5


def canvas_at(editor, x, y):
    """Screen place of a pixel of the frame."""
    box = editor.locator("canvas.steadyedit-points").first.bounding_box()
    scale = min(box["width"], box["height"]) / 64
    left, top = box["x"] + (box["width"] - 64 * scale) / 2, box["y"] + (box["height"] - 64 * scale) / 2
    return left + x * scale, top + y * scale


def points(text):
    return [tuple(float(value) for value in part.split(",")) for part in text.split(";") if part.strip()]


def test_clicks_become_points_and_their_mask(editor, started):
    frontend.load_api(editor, {key: {**node, "_meta": {"title": key}} for key, node in GRAPH.items()})
    assert frontend.missing(editor) == []
    # All of the node on the screen, at a scale at which pixels of the frame can be hit.
    editor.evaluate(f"""() => {{ const node = {NODE}; node.pos = [0, 0]; node.setSize([420, 640]);
        app.canvas.ds.scale = 1; app.canvas.ds.offset = [400, 80]; app.canvas.setDirty(true, true) }}""")
    queued(editor, started)
    editor.wait_for_function("() => document.querySelector('canvas.steadyedit-points')?.dataset.ready === '64x64'")

    editor.mouse.click(*canvas_at(editor, 20, 30))
    editor.keyboard.down("Shift")
    editor.mouse.click(*canvas_at(editor, 50, 12))
    editor.keyboard.up("Shift")
    editor.mouse.move(*canvas_at(editor, 8, 10))
    editor.mouse.down()
    editor.mouse.move(*canvas_at(editor, 30, 40))
    editor.mouse.move(*canvas_at(editor, 40, 50))
    editor.mouse.up()
    texts = editor.evaluate(TEXTS)
    assert points(texts["positive"])[0] == pytest.approx((20, 30), abs=0.5)
    assert points(texts["negative"])[0] == pytest.approx((50, 12), abs=0.5)
    assert points(texts["boxes"])[0] == pytest.approx((8, 10, 32, 40), abs=0.5)
    assert editor.locator("canvas.steadyedit-points").first.get_attribute("data-marks") == "1,1,1"

    outputs = queued(editor, started)
    mask = saved_mask(started, outputs)
    assert mask.any() and not mask.all()
    assert torch.equal(mask, expected(started, **texts))


def test_a_click_on_a_mark_takes_it_away(editor):
    texts = editor.evaluate(TEXTS)
    editor.mouse.click(*canvas_at(editor, *points(texts["negative"])[0]))
    assert editor.evaluate(TEXTS) == {**texts, "negative": ""}
    editor.keyboard.down("Shift")
    editor.mouse.click(*canvas_at(editor, 50, 12))
    editor.keyboard.up("Shift")
    assert points(editor.evaluate(TEXTS)["negative"])


def test_typed_points_are_shown_and_kept(editor):
    before = editor.evaluate(TEXTS)["positive"]
    typed = '[{"x": 5, "y": 6}, {"x": 7.5, "y": 60}]'
    editor.evaluate(f"""(text) => {{ const w = {NODE}.widgets.find((w) => w.name === 'positive');
        w.value = text; w.callback?.(text) }}""", typed)
    assert editor.locator("canvas.steadyedit-points").first.get_attribute("data-marks") == "2,1,1"
    # A click adds to what is typed; text that is being typed is not overwritten.
    editor.mouse.click(*canvas_at(editor, 33, 58))
    assert len(points(editor.evaluate(TEXTS)["positive"])) == 3
    editor.evaluate(f"() => {{ {NODE}.widgets.find((w) => w.name === 'positive').value = '5,' }}")
    editor.mouse.click(*canvas_at(editor, 60, 30))
    assert editor.evaluate(TEXTS)["positive"] == "5,"
    editor.evaluate(f"""(text) => {{ const w = {NODE}.widgets.find((w) => w.name === 'positive');
        w.value = text; w.callback?.(text) }}""", before)


def test_points_survive_copy_and_paste(editor):
    texts = editor.evaluate(TEXTS)
    pasted = editor.evaluate(f"""() => {{
        const node = {NODE};
        app.canvas.selectNode(node);
        app.canvas.copyToClipboard([node]);
        app.canvas.pasteFromClipboard();
        const copy = app.graph.nodes.filter((n) => n.type === 'SteadyEditPointMask').find((n) => n.id !== node.id);
        const values = Object.fromEntries(copy.widgets.map((w) => [w.name, w.value]));
        const shown = copy.widgets.find((w) => w.name === 'picture').element?.className;
        app.graph.remove(copy);
        return {{ values, shown }};
    }}""")
    assert {name: pasted["values"][name] for name in texts} == texts and pasted["shown"] == "steadyedit-points"


def test_points_survive_save_and_reload(editor, started):
    texts, graph = editor.evaluate(TEXTS), frontend.saved(editor)
    (node,) = [n for n in graph["nodes"] if n["type"] == "SteadyEditPointMask"]
    # The picture itself is no value: the saved ones are those of the node's schema, in its order.
    assert node["widgets_values"][:5] == [1, texts["positive"], texts["negative"], texts["boxes"], "empty mask"]
    editor.reload()
    editor.wait_for_function(frontend.READY, timeout=180_000)
    editor.wait_for_timeout(3000)
    editor.keyboard.press("Escape")
    frontend.load_ui(editor, json.loads(json.dumps(graph)))
    assert editor.evaluate(TEXTS) == texts
    editor.wait_for_function("() => document.querySelector('canvas.steadyedit-points')?.dataset.ready === '64x64'")
    assert editor.locator("canvas.steadyedit-points").first.get_attribute("data-marks") == "1,1,1"
    (api,) = [n for n in frontend.exported(editor).values() if n["class_type"] == "SteadyEditPointMask"]
    assert {name: api["inputs"][name] for name in texts} == texts and "picture" not in api["inputs"]
