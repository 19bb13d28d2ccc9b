"""Draw the picture of each node's help page: the node in use, between the nodes that it is wired to.

    python tests/host/help_pictures.py [NODE_ID...]

Without names all are drawn, in a ComfyUI that is started for it (COMFYUI_PATH, else ~/comfy/ComfyUI), whose models,
weights and clips are empty files of the names that the graphs have: the editor marks loaders that lack theirs. What
stands around a node is taken from a shipped graph, and for nodes that are in none from ``help_graphs.json`` beside this
file; nodes that show something after a run are run first, in small graphs from there, too.
``web/docs/pictures/NODE_ID.webp`` keeps the labels of the node that it shows, which a test compares with the node.
Needs ``pip install playwright`` and a Chromium.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import frontend
from editor_files import MODELS
from PIL import Image

DOCS = frontend.WORKFLOWS.parent / "web" / "docs"
PICTURES = DOCS / "pictures"
OWN = Path(__file__).with_name("help_graphs.json")
#: Models that are folders, by what they say that they are.
FOLDERS = {
    "LLM/Florence-2-base": "florence2", "LLM/Qwen2.5-VL-3B-Instruct": "qwen2_5_vl",
    "sams/sam2.1-hiera-small": "sam2_video", "grounding-dino/grounding-dino-tiny": "grounding-dino",
}  # fmt: skip
#: Bytes of one picture.
LARGEST = 15_000
#: The EXIF field that holds a picture's words.
DESCRIPTION = 270
#: Pixels to a neighbour, how much of it is shown, the node's least width; how many neighbours at each side.
GAP, MARGIN, WIDTH, MOST = 50, 240, 380, 5

# The node in the middle, those that it takes from at its left, those that it gives to at its right; closed where they
# would be far higher than the node together.
PLACE = """
({ id, left, right, gap, wide }) => {
  const get = (key) => app.graph.getNodeById(key), node = get(id);
  for (const group of [...app.graph._groups]) app.graph.remove(group);
  for (const one of app.graph.nodes)
    one.setSize([Math.max(one.computeSize()[0], one === node ? wide : 240), one.size[1]]);
  node.pos = [0, 0];
  for (const [keys, side] of [[left, -1], [right, 1]]) {
    const nodes = keys.map(get);
    const room = (one) => (one.flags.collapsed ? 0 : one.size[1]) + 54;
    const high = () => nodes.reduce((sum, one) => sum + room(one), 0);
    if (high() > node.size[1] + 160) for (const one of nodes) if (!one.flags.collapsed && !one.imgs) one.collapse();
    let y = Math.max(0, (node.size[1] - high()) / 2);
    for (const one of nodes) {
      one.pos = [side < 0 ? -gap - one.size[0] : node.size[0] + gap, y];
      y += room(one);
    }
  }
  app.canvas.deselectAll();
  app.canvas.setDirty(true, true);
  return JSON.stringify(app.graph.nodes.map((one) => [...one.pos, ...one.size]));
}
"""
# The place of the picture on the screen: the node, and what of its neighbours is near.
VIEW = """
({ id, gap, margin }) => {
  const node = app.graph.getNodeById(id), others = app.graph.nodes.filter((one) => one !== node);
  const reach = (side) => (others.some(side) ? gap + margin : 24);
  const left = -reach((one) => one.pos[0] < 0), right = node.size[0] + reach((one) => one.pos[0] > 0);
  const lowest = (one) => one.pos[1] + (one.flags.collapsed ? 0 : one.size[1]);
  const top = Math.min(...app.graph.nodes.map((one) => one.pos[1])) - 44;
  const low = Math.max(node.size[1], Math.min(node.size[1] + 160, Math.max(...app.graph.nodes.map(lowest)))) + 14;
  app.canvas.ds.scale = 1;
  app.canvas.ds.offset = [120 - left, 120 - top];
  app.canvas.setDirty(true, true);
  const box = app.canvas.canvas.getBoundingClientRect();
  return { x: box.left + 120, y: box.top + 120, width: right - left, height: low - top };
}
"""
LABELS = """(type) => {
  const node = LiteGraph.createNode(type);
  const of = (slots) => (slots ?? []).map((slot) => slot.label ?? slot.localized_name ?? slot.name);
  const widgets = of(node.widgets), inputs = of((node.inputs ?? []).filter((slot) => !slot.widget));
  return [node.title, ...inputs, ...widgets, ...of(node.outputs)];
}"""


@cache
def graphs() -> list[dict[str, Any]]:
    """The shipped graphs, short ones first."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in (frontend.WORKFLOWS / "api").glob("*.json")]
    return sorted(found, key=len)


def around(api: dict[str, Any], key: str) -> tuple[list[str], list[str]]:
    """What the node takes from, in the order of its inputs, and what takes from it."""
    taken = [value[0] for value in api[key]["inputs"].values() if isinstance(value, list)]
    given = [other for other, node in api.items()
             if any(isinstance(value, list) and value[0] == key for value in node["inputs"].values())]  # fmt: skip
    return list(dict.fromkeys(taken))[:MOST], given[:MOST]


def use_of(node_id: str) -> tuple[dict[str, Any], list[str], str, list[str], bool]:
    """The node with its neighbours alone: the graph, the keys at its left, its own, those at its right; run or not.

    Raises:
        RuntimeError: it stands in no graph.
    """
    own = json.loads(OWN.read_text(encoding="utf-8")).get(node_id)
    found = [(graph, key) for graph in ([own["nodes"]] if own else graphs()) for key, node in graph.items()
             if node["class_type"] == node_id]  # fmt: skip
    if not found:
        raise RuntimeError(f"{node_id}: it stands in no graph; give it a small one in {OWN.name}.")

    def shown(one: tuple[dict[str, Any], str]) -> tuple[int, int]:
        left, right = around(*one)
        return bool(left) + bool(right), len(left) + len(right)

    # With neighbours at both sides, and many of them.
    api, key = max(found, key=shown)
    left, right = around(api, key)
    if own and own["run"]:
        return api, left, key, [other for other in api if other not in [*left, key]], True
    kept = {}
    for name in [*left, key, *right]:
        inputs = {field: value for field, value in api[name]["inputs"].items()
                  if not isinstance(value, list) or (name == key and value[0] in left) or value[0] == key}  # fmt: skip
        kept[name] = {**api[name], "inputs": inputs, "_meta": {"title": api[name]["_meta"]["title"]}}
    return kept, left, key, right, False


def small(shot: bytes, words: list[str]) -> bytes:
    """A screenshot as a WebP of at most ``LARGEST`` bytes, with the words that it shows.

    Raises:
        RuntimeError: it would be larger.
    """
    picture = Image.open(BytesIO(shot)).convert("RGB")
    exif = Image.Exif()
    exif[DESCRIPTION] = json.dumps(words)
    for width in (picture.width, 720):
        shown = picture if width >= picture.width else picture.resize((width, picture.height * width // picture.width))
        for quality in (80, 70, 60, 50, 40, 30, 20):
            sink = BytesIO()
            shown.save(sink, "WEBP", quality=quality, method=6, exif=exif)
            if sink.tell() <= LARGEST:
                return sink.getvalue()
    raise RuntimeError(f"A picture of {picture.size} does not fit into {LARGEST} bytes.")


def words_of(node_id: str) -> list[str]:
    """The labels that a node had when its picture was drawn."""
    with Image.open(PICTURES / f"{node_id}.webp") as picture:
        return json.loads(picture.getexif()[DESCRIPTION])


def draw(opened: Any, node_id: str) -> Path:
    """Write the picture of one node.

    Raises:
        RuntimeError: the editor marks a node as faulty.
    """
    part, left, key, right, run = use_of(node_id)
    # What a run before this one showed hangs on the numbers of its nodes.
    opened.evaluate("() => { app.nodeOutputs = {} }")
    frontend.load_api(opened, part)
    frontend.settle(opened)
    place = {"id": int(key), "left": [*map(int, left)], "right": [*map(int, right)], "gap": GAP,
             "wide": WIDTH}
    if run:
        frontend.run(opened)
        opened.wait_for_timeout(3000)
    # Until nothing moves any more: Nodes 2.0 gives nodes that come into sight the sizes that they have there.
    seen = [""]
    while len(seen) < 3 or seen[-1] != seen[-2]:
        frontend.settle(opened)
        opened.wait_for_timeout(300)
        seen.append(opened.evaluate(PLACE, place))
    if marked := opened.evaluate("() => app.graph.nodes.filter((one) => one.has_errors).map((one) => one.title)"):
        raise RuntimeError(f"{node_id}: the editor marks {', '.join(marked)} as faulty.")
    clip = opened.evaluate(VIEW, {"id": int(key), "gap": GAP, "margin": MARGIN})
    opened.wait_for_timeout(600)
    PICTURES.mkdir(exist_ok=True)
    path = PICTURES / f"{node_id}.webp"
    path.write_bytes(small(opened.screenshot(clip=clip), opened.evaluate(LABELS, node_id)))
    return path


@contextmanager
def editor() -> Iterator[Any]:
    """An open page on a ComfyUI that has a file of each name that the graphs have."""
    from steadyedit.standalone.comfy_process import find_comfy, running

    comfy = find_comfy()
    if comfy is None:
        raise RuntimeError("No ComfyUI was found: name its folder by COMFYUI_PATH.")
    with tempfile.TemporaryDirectory() as folder:
        models, output = Path(folder, "models"), Path(folder, "output")
        output.mkdir()
        for model in json.loads(MODELS.read_text(encoding="utf-8")):
            path = models / model["directory"] / model["name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        for name, kind in FOLDERS.items():
            (models / name).mkdir(parents=True)
            (models / name / "config.json").write_text(json.dumps({"model_type": kind}))
        (models / "steadyedit").mkdir()
        with running(comfy, output, True, models) as host:
            loaded = {"SteadyEditLoadTuned": (models / "steadyedit", "name"), "LoadVideo": (host.input, "file"),
                      "LoadImage": (host.input, "image")}  # fmt: skip
            for node in (node for graph in graphs() for node in graph.values() if node["class_type"] in loaded):
                place, field = loaded[node["class_type"]]
                (place / node["inputs"][field]).touch()
            with frontend.page(f"http://127.0.0.1:{host.port}") as opened:
                yield opened


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NODE_ID", help="nodes whose pictures to draw; all by default")
    args = parser.parse_args()
    with editor() as opened:
        opened.keyboard.press("Escape")
        frontend.choose_renderer(opened, True)
        for name in args.names or sorted(path.stem for path in DOCS.glob("*.md")):
            print(draw(opened, name), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
