"""Point Mask in the host's own editor, in headless Chromium: clicks become points, a queued run gives their mask."""

from __future__ import annotations

import json
import time
import urllib.request
from io import BytesIO
from uuid import uuid4

import frontend
import numpy as np
import pytest
import torch
from steadyedit.vision.segmentation import load as loading
from steadyedit.vision.segmentation import names
from tiny_vision import TINY_SAM, shaken

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
WIDGET = f"{NODE}.widgets.find((w) => w.name === name)"
TEXTS = f"""() => Object.fromEntries({NODE}.widgets.filter((w) => ['positive', 'negative', 'boxes'].includes(w.name))
            .map((w) => [w.name, w.value]))"""
TYPE = f"([name, text]) => {{ const w = {WIDGET}; w.value = text; w.callback?.(text) }}"
CANVAS = "canvas.steadyedit-points"


@pytest.fixture(scope="module")
def tiny_sam(started):
    (started.models / "sams").mkdir(parents=True, exist_ok=True)
    sam = shaken(lambda: loading.build_transformers(TINY_SAM))
    path = started.models / "sams" / "tiny.pth"
    torch.save(names.to_official(sam.state_dict(), names.official_names(TINY_SAM)), path)


@pytest.fixture(scope="module", params=["canvas", "nodes 2.0"])
def editor(opened, started, tiny_sam, request):
    """The graph after a run, in each of the frontend's renderers, all of the node on the screen."""
    frontend.choose_renderer(opened, request.param == "nodes 2.0")
    frontend.load_api(opened, {key: {**node, "_meta": {"title": key}} for key, node in GRAPH.items()})
    assert frontend.missing(opened) == []
    in_view(opened)
    queued(opened, started)
    shown(opened)
    return opened


def in_view(editor):
    """At a scale at which pixels of the frame can be hit."""
    editor.evaluate(f"""() => {{ const node = {NODE}; node.pos = [0, 0]; node.setSize([420, 720]);
        app.canvas.ds.scale = 1; app.canvas.ds.offset = [400, 80]; app.canvas.setDirty(true, true) }}""")
    editor.wait_for_timeout(300)


def shown(editor, frame=None):
    """Wait until the picture is there."""
    editor.wait_for_function(f"""(frame) => {{ const data = document.querySelector('{CANVAS}')?.dataset;
        return data?.ready === '64x64' && (frame === null ? data.frame !== '' : data.frame === frame) }}""", arg=frame)


def data(editor, name):
    return editor.locator(CANVAS).first.get_attribute(f"data-{name}")


def put(editor, positive="", negative="", boxes=""):
    """Begin a test with these marks."""
    for name, text in (("positive", positive), ("negative", negative), ("boxes", boxes)):
        editor.evaluate(TYPE, [name, text])


def click(editor, x, y, **how):
    editor.mouse.click(*canvas_at(editor, x, y), **how)


def drag(editor, start, end):
    editor.mouse.move(*canvas_at(editor, *start))
    editor.mouse.down()
    editor.mouse.move(*canvas_at(editor, *((a + b) / 2 for a, b in zip(start, end))))
    editor.mouse.move(*canvas_at(editor, *end))
    editor.mouse.up()


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
    box = editor.locator(CANVAS).first.bounding_box()
    scale = min(box["width"], box["height"]) / 64
    left, top = box["x"] + (box["width"] - 64 * scale) / 2, box["y"] + (box["height"] - 64 * scale) / 2
    return left + x * scale, top + y * scale


def points(text):
    return [tuple(float(value) for value in part.split(",")) for part in text.split(";") if part.strip()]


def test_clicks_become_points_and_their_mask(editor, started):
    put(editor)
    click(editor, 20, 30)
    editor.keyboard.down("Shift")
    click(editor, 50, 12)
    editor.keyboard.up("Shift")
    drag(editor, (8, 10), (40, 50))
    texts = editor.evaluate(TEXTS)
    assert points(texts["positive"])[0] == pytest.approx((20, 30), abs=0.5)
    assert points(texts["negative"])[0] == pytest.approx((50, 12), abs=0.5)
    assert points(texts["boxes"])[0] == pytest.approx((8, 10, 32, 40), abs=0.5)
    assert data(editor, "marks") == "1,1,1"
    mask = saved_mask(started, queued(editor, started))
    assert mask.any() and not mask.all()
    assert torch.equal(mask, expected(started, **texts))
    editor.wait_for_function(f"() => document.querySelector('{CANVAS}').dataset.masks === '1'")


def test_a_right_click_places_and_takes_away_and_opens_no_menu(editor):
    put(editor, "20,30")
    menus = """() => [...document.querySelectorAll('.litecontextmenu, [role=menu], .p-contextmenu')]
        .filter((e) => e.offsetParent).length"""
    before = editor.evaluate(menus)
    click(editor, 50, 12, button="right")
    assert points(editor.evaluate(TEXTS)["negative"])[0] == pytest.approx((50, 12), abs=0.5)
    click(editor, 20, 30, button="right")
    assert editor.evaluate(TEXTS)["positive"] == "" and data(editor, "marks") == "0,1,0"
    assert editor.evaluate(menus) == before


def test_marks_are_moved_boxes_too(editor):
    put(editor, "20,30", "", "30,30,20,20")
    drag(editor, (20, 30), (14, 10))
    assert points(editor.evaluate(TEXTS)["positive"])[0] == pytest.approx((14, 10), abs=0.5)
    drag(editor, (50, 50), (60, 56))
    assert points(editor.evaluate(TEXTS)["boxes"])[0] == pytest.approx((30, 30, 30, 26), abs=0.5)
    drag(editor, (45, 30), (42, 34))
    assert points(editor.evaluate(TEXTS)["boxes"])[0] == pytest.approx((27, 34, 30, 26), abs=0.5)


def test_frames_and_objects_by_the_keyboard(editor):
    """The node's own frame is 1: marks of another frame, and of another object, say so in the text."""
    put(editor, "20,30")
    editor.locator(CANVAS).first.focus()
    editor.keyboard.press("ArrowLeft")
    shown(editor, "0")
    editor.keyboard.press("2")
    editor.keyboard.press("p")
    for key in ("ArrowRight", "Shift+ArrowDown"):
        editor.keyboard.press(key)
    assert editor.evaluate(TEXTS)["positive"] == "20,30 | 0#2: 33,42"
    editor.keyboard.press("b")
    assert editor.evaluate(TEXTS)["boxes"] == "0#2: 24,24,16,16"
    editor.keyboard.press("Delete")
    assert editor.evaluate(TEXTS)["boxes"] == "" and editor.evaluate(f"() => !!{NODE}")
    editor.keyboard.press("Tab")
    editor.keyboard.press("Delete")
    assert editor.evaluate(TEXTS)["positive"] == "20,30"
    editor.keyboard.press("1")
    editor.keyboard.press("End")
    shown(editor, "1")


def test_each_edit_is_one_step_of_undo(editor):
    """By the buttons, and by the host's own undo, which loads the graph anew: the picture is there again."""
    put(editor)
    states = [editor.evaluate(TEXTS)]
    for x in (10, 30, 50):
        click(editor, x, 20)
        states.append(editor.evaluate(TEXTS))
    editor.get_by_role("button", name="Take all marks away").first.click()
    assert editor.evaluate(TEXTS) == states[0]
    for state in (states[3], states[2]):
        editor.get_by_role("button", name="Undo", exact=True).first.click()
        assert editor.evaluate(TEXTS) == state
    editor.get_by_role("button", name="Redo", exact=True).first.click()
    assert editor.evaluate(TEXTS) == states[3]
    editor.mouse.click(1200, 900)
    for state in (states[2], states[3], states[0], states[3]):
        editor.keyboard.press("Control+z")
        editor.wait_for_function(f"(state) => JSON.stringify(({TEXTS})()) === state",
                                 arg=json.dumps(state, separators=(",", ":")), timeout=120_000)
    shown(editor)
    in_view(editor)


def test_zoomed_in_a_click_hits_the_pixel_under_it(editor):
    put(editor)
    editor.locator(CANVAS).first.focus()
    place = canvas_at(editor, 16, 24)
    editor.mouse.move(*place)
    for _ in range(4):
        editor.mouse.wheel(0, -100)
    editor.wait_for_timeout(100)
    editor.mouse.click(*place)
    assert points(editor.evaluate(TEXTS)["positive"])[0] == pytest.approx((16, 24), abs=0.3)
    # 10 screen pixels are fewer of the frame's now: 2.44 times.
    editor.mouse.click(place[0] + 40, place[1])
    scale = (canvas_at(editor, 1, 0)[0] - canvas_at(editor, 0, 0)[0]) * 1.25**4
    assert points(editor.evaluate(TEXTS)["positive"])[1] == pytest.approx((16 + 40 / scale, 24), abs=0.3)
    editor.keyboard.press("0")


def test_typed_points_are_shown_and_kept(editor):
    put(editor, '[{"x": 5, "y": 6}, {"x": 7.5, "y": 60}]', "50,12")
    assert data(editor, "marks") == "2,1,0"
    # A click adds to what is typed; text that is being typed is not overwritten.
    click(editor, 33, 58)
    assert len(points(editor.evaluate(TEXTS)["positive"])) == 3
    editor.evaluate(TYPE, ["positive", "5,"])
    click(editor, 60, 30)
    assert editor.evaluate(TEXTS)["positive"] == "5,"


def test_marks_survive_copy_and_paste(editor):
    put(editor, "20,30 | 0#2: 5,6")
    texts = editor.evaluate(TEXTS)
    pasted = editor.evaluate(f"""() => {{
        const node = {NODE};
        app.canvas.selectNode(node);
        app.canvas.copyToClipboard([node]);
        app.canvas.pasteFromClipboard();
        const copy = app.graph.nodes.filter((n) => n.type === 'SteadyEditPointMask').find((n) => n.id !== node.id);
        const values = Object.fromEntries(copy.widgets.map((w) => [w.name, w.value]));
        const shown = copy.widgets.find((w) => w.name === 'picture').element?.querySelector('canvas').className;
        app.graph.remove(copy);
        return {{ values, shown }};
    }}""")
    assert {name: pasted["values"][name] for name in texts} == texts and pasted["shown"] == "steadyedit-points"


def test_a_cached_run_of_a_fresh_graph_shows_the_clip(editor, started):
    """Nothing is left of what was shown, and the host computes nothing anew."""
    put(editor, "20,30")
    queued(editor, started)
    graph = frontend.saved(editor)
    graph["id"] = str(uuid4())
    (node,) = [n for n in graph["nodes"] if n["type"] == "SteadyEditPointMask"]
    del node["properties"]["steadyedit_last"]
    frontend.load_ui(editor, graph)
    assert data(editor, "ready") is None
    queued(editor, started)
    shown(editor)


def test_marks_and_picture_survive_save_and_reload(editor, started):
    put(editor, "20,30 | 0#2: 5,6", "50,12", "8,10,32,40")
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
    shown(editor)
    assert data(editor, "marks") == "2,1,1"
    (api,) = [n for n in frontend.exported(editor).values() if n["class_type"] == "SteadyEditPointMask"]
    assert {name: api["inputs"][name] for name in texts} == texts and "picture" not in api["inputs"]


TABLE = ["", "1,2", "1,2; 3.5,4", "1,2 | 3: 5,6", "1,2 | 3#2: 5,6; 7,8 | #2: 1,1", " 12 # 3 : 4,5 ", "5,", "x", "1,2,3",
         '[{"x": 1, "y": 2}, {"x": 3, "y": 4, "frame": 2, "object": 3}]', '[{"x": 1}]', "3:"]


def test_the_widget_reads_what_the_node_reads(opened):
    from steadyedit.vision.marks import marks_of

    read = opened.evaluate("""async (table) => { const { parse } = await import(
        '/extensions/steadyedit/js/point_marks.js'); return table.map((text) => parse(text, 'positive')) }""", TABLE)
    for text, rows in zip(TABLE, read):
        try:
            found = marks_of(text, "", "", 7, 99, 64, 64)
        except ValueError:
            assert rows is None, text
            continue
        seen = {}
        for row in rows:
            seen.setdefault((7 if row["frame"] is None else row["frame"], row["object"]), []).append(tuple(row["at"]))
        assert seen == {place: marks.positive for place, marks in found.items()}, text


INK = """async (zooms) => {
  const { draw } = await import('/extensions/steadyedit/js/point_view.js'), found = [];
  for (const zoom of zooms) {
    const canvas = document.createElement('canvas');
    canvas.style.cssText = `position:fixed;left:0;top:0;width:280px;height:180px;transform:scale(${zoom})`;
    canvas.style.transformOrigin = '0 0';
    document.body.append(canvas);
    draw(canvas, { image: null });
    const { width, height } = canvas, { data } = canvas.getContext('2d').getImageData(0, 0, width, height);
    const inked = [...Array(width * height).keys()].filter((i) => data[4 * i + 3] > 60);
    const span = (values) => Math.max(...values) - Math.min(...values) + 1;
    found.push([span(inked.map((i) => i % width)) / width, span(inked.map((i) => Math.floor(i / width))) / height]);
    canvas.remove();
  }
  return found;
}"""


def test_the_words_before_a_run_keep_their_shape_at_every_zoom(editor):
    """As much of the node's width and height at half and at double zoom, and no wider than the node."""
    half, one, two = editor.evaluate(INK, [0.5, 1, 2])
    assert 0.3 < one[0] < 0.95
    assert half == pytest.approx(one, rel=0.1) and two == pytest.approx(one, rel=0.1)
