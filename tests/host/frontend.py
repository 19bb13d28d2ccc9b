"""Drive the host's real frontend in headless Chromium: load a graph, lay it out, save it, photograph it.

As a command it writes the UI form of a graph (``workflows/TITLE (NAME).json``) from its API form
(``workflows/api/NAME.json``), on a running ComfyUI that has this pack:

    python tests/host/frontend.py NAME... --url http://127.0.0.1:8188 [--picture FILE.png]

With ``--blueprint`` it writes ``subgraphs/NAME.json`` from ``subgraphs/api/NAME.json``.
With ``--values`` it needs no browser and no ComfyUI: it carries values of widgets and the note over into a UI form
whose nodes and links stay as they are.

The layout follows the API form: nodes of one ``_meta.group`` stand under each other in the order of the file, groups
side by side; ``workflows/api/NAME.md``, where it is there, becomes the note at the left. Needs ``pip install
playwright`` and a Chromium (CHROMIUM, else the one on PATH); no browser is downloaded.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blueprints import blueprint

# The helpers beside the tests, which only pytest knows by itself.
sys.path.append(str(Path(__file__).resolve().parents[1]))
from editor_files import carry_values, write  # noqa: E402
from folded_graphs import subgraph_nodes  # noqa: E402
from forms import editor_form  # noqa: E402
from sam3 import with_sam3  # noqa: E402

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
BLUEPRINTS = WORKFLOWS.parent / "subgraphs"
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip

#: Files of models that graphs name: where they are to be had, and where they belong.

CONTROL = "control_after_generate"
READY = "() => window.app?.graph && Object.keys(LiteGraph.registered_node_types).length > 100"

# Titles are drawn above a node's position, so a column leaves that much before each node.
LAY_OUT = """
({ groups, note }) => {
  const TITLE = 30, GAP = 26, PAD = 24, WIDTH = 300, TEXT = [360, 130];
  let x = 0;
  if (note) {
    const node = LiteGraph.createNode('MarkdownNote');
    app.graph.add(node);
    node.pos = [x, TITLE];
    node.size = [420, 400];
    node.widgets[0].value = note;
    x += 420 + 60;
  }
  for (const [title, ids] of groups) {
    const nodes = ids.map((id) => app.graph.getNodeById(id));
    const isText = (n) => n.widgets?.some((w) => w.type === 'customtext');
    const width = Math.max(...nodes.map((n) => (isText(n) ? TEXT[0] : Math.max(WIDTH, n.computeSize()[0]))));
    let y = TITLE;
    for (const node of nodes) {
      const linked = node.inputs.find((i) => i.name === 'text')?.link != null;
      node.pos = [x + PAD, y + TITLE + PAD];
      // A field of text asks for hardly any height itself; widgets beside it need theirs.
      const own = Math.max(node.computeSize()[1], 40), field = isText(node) && !linked;
      node.size = [width, !field ? own : node.widgets.length > 1 ? own + TEXT[1] / 2 : TEXT[1]];
      y += node.size[1] + TITLE + GAP;
    }
    const group = new LiteGraph.LGraphGroup(title);
    app.graph.add(group);
    group.pos = [x, 0];
    group.size = [width + 2 * PAD, y + PAD + TITLE];
    x += width + 2 * PAD + 50;
  }
  for (const node of app.graph.nodes)
    for (const widget of node.widgets ?? [])
      // A graph that is shipped gives the same result every time it is queued.
      if (['control_after_generate', 'fixed'].includes(widget.name)) widget.value = 'fixed';
  // The view that it opens with: all of it on a common screen.
  app.canvas.ds.scale = 0.6;
  app.canvas.ds.offset = [120, 120];
}
"""

# Nodes of one subgraph become one node; inside they stand in columns of four.
FOLD = """
({ title, ids }) => {
  const nodes = ids.map((id) => app.graph.getNodeById(id));
  nodes.forEach((node, i) => {
    node.size = [Math.max(300, node.computeSize()[0]), Math.max(node.computeSize()[1], 60)];
    const above = nodes.slice(i - (i % 4), i).reduce((sum, one) => sum + one.size[1] + 60, 0);
    node.pos = [420 * Math.floor(i / 4), above];
    for (const widget of node.widgets ?? [])
      if (['control_after_generate', 'fixed'].includes(widget.name)) widget.value = 'fixed';
  });
  const { node } = app.graph.convertToSubgraph(new Set(nodes));
  node.title = node.subgraph.name = title;
  return node.id;
}
"""

SHOW_ALL = """
() => {
  const { nodes, groups } = app.canvas.graph;
  const boxes = [...nodes, ...groups].map((n) => n.getBounding?.() ?? [...n.pos, ...n.size]);
  const left = Math.min(...boxes.map((b) => b[0])), right = Math.max(...boxes.map((b) => b[0] + b[2]));
  const top = Math.min(...boxes.map((b) => b[1])), bottom = Math.max(...boxes.map((b) => b[1] + b[3]));
  const view = app.canvas.canvas.getBoundingClientRect();
  const scale = Math.min((view.width - 140) / (right - left), (view.height - 160) / (bottom - top), 1);
  app.canvas.ds.scale = scale;
  app.canvas.ds.offset = [100 / scale - left, 90 / scale - top];
  app.canvas.setDirty(true, true);
}
"""


def chromium() -> str | None:
    """The browser to drive: CHROMIUM, else one on PATH."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@contextmanager
def page(url: str, width: int = 2400, height: int = 1200) -> Iterator[Any]:
    """An open page of the frontend at ``url``, every node type registered.

    Raises:
        RuntimeError: there is no Chromium.
    """
    from playwright.sync_api import sync_playwright

    browser_path = chromium()
    if browser_path is None:
        raise RuntimeError("No Chromium was found: install it, or name it by CHROMIUM.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=FLAGS)
        try:
            opened = browser.new_page(viewport={"width": width, "height": height})
            opened.goto(url)
            opened.wait_for_function(READY, timeout=180_000)
            # The frontend goes on setting up after its node types are there, and then opens a default graph.
            opened.wait_for_timeout(3000)
            yield opened
        finally:
            browser.close()


#: Whether nothing on the canvas has moved or grown for some frames, however long these take.
STILL = """() => new Promise((done) => {
  let before = '', same = 0, frames = 0;
  const look = () => {
    const now = JSON.stringify(app.canvas.graph.nodes.map((n) => [...n.pos, ...n.size]));
    same = now === before ? same + 1 : 0;
    before = now;
    if (same >= 10 || ++frames > 600) done(); else requestAnimationFrame(look);
  };
  look();
})"""


def settle(opened: Any) -> None:
    """Wait until the nodes have the sizes that they keep."""
    opened.evaluate(STILL)


RUN = """async () => {
  const ended = new Promise((done) => {
    for (const name of ['execution_success', 'execution_error', 'execution_interrupted'])
      app.api.addEventListener(name, () => done(name), { once: true });
  });
  await app.queuePrompt(0, 1);
  return await ended;
}"""


def run(opened: Any) -> None:
    """Queue the graph on the canvas and wait for its end.

    Raises:
        RuntimeError: it ended with an error.
    """
    if (end := opened.evaluate(RUN)) != "execution_success":
        raise RuntimeError(f"The graph on the canvas did not run: {end}.")


def choose_renderer(opened: Any, nodes_2: bool) -> None:
    """Draw nodes on the canvas, or as Nodes 2.0 does."""
    opened.evaluate("async (on) => { await app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on) }", nodes_2)
    opened.wait_for_timeout(500)


def saved(opened: Any) -> dict[str, Any]:
    """The graph on the canvas, as the frontend's Save writes it."""
    graph = json.loads(opened.evaluate("() => JSON.stringify(app.graph.serialize())"))
    for node in [*graph["nodes"], *(node for _, inside in subgraph_nodes(graph) for node in inside["nodes"])]:
        named = node.get("widgets_values_named", {})
        if "fixed" in named:
            # Some frontends name this widget after the value that a node's schema starts it with.
            node["widgets_values_named"] = {CONTROL if name == "fixed" else name: v for name, v in named.items()}
    return graph


def missing(opened: Any) -> list[str]:
    """Types of the nodes on the canvas that this host does not have."""
    return opened.evaluate(
        "() => app.graph.nodes.map((n) => n.type).filter((type) => !(type in LiteGraph.registered_node_types))"
    )


OUTSIDE = """() => {
  const all = app.rootGraph ?? app.graph, inside = app.canvas.graph !== all;
  if (inside) app.canvas.setGraph(all);
  return inside;
}"""


def load_ui(opened: Any, graph: dict[str, Any]) -> None:
    """Put a UI form on the canvas, as Open does.

    First out of whatever blueprint the canvas shows: the address that names its inside would bring back an older
    workflow that holds it.
    """
    if opened.evaluate(OUTSIDE):
        settle(opened)
    opened.evaluate("async (graph) => { await app.loadGraphData(graph) }", graph)
    settle(opened)


def exported(opened: Any) -> dict[str, Any]:
    """What the frontend would queue for the graph on the canvas: its API form."""
    return opened.evaluate("async () => (await app.graphToPrompt()).output")


def flat(queued: dict[str, Any]) -> dict[str, Any]:
    """An API form whose nodes inside subgraphs ("60:12") have their own number alone, in links, too."""
    def own(value: Any) -> Any:
        return [value[0].rpartition(":")[2], *value[1:]] if isinstance(value, list) and value else value

    return {key.rpartition(":")[2]: node | {"inputs": {field: own(value) for field, value in node["inputs"].items()}}
            for key, node in queued.items()}  # fmt: skip


def load_api(opened: Any, api: dict[str, Any], note: str = "") -> None:
    """Put an API form on the canvas and lay it out by its groups."""
    opened.evaluate("async (api) => { await app.loadApiJson(api, 'graph') }", api)
    settle(opened)
    folded = fold(opened, api)
    groups: dict[str, list[int]] = {}
    for key, node in api.items():
        members = groups.setdefault(node["_meta"].get("group", "Graph"), [])
        number = folded.get(node["_meta"].get("subgraph"), int(key))
        if number not in members:
            members.append(number)
    opened.evaluate(LAY_OUT, {"groups": list(groups.items()), "note": note})


def fold(opened: Any, api: dict[str, Any]) -> dict[str, int]:
    """Make one node of all that name one ``_meta.subgraph``; it shows their widgets named in ``_meta.shown``.

    Returns:
        The number of that node, by its title.
    """
    made: dict[str, int] = {}
    shown: dict[int, list[list[str]]] = {}
    for title in dict.fromkeys(node["_meta"].get("subgraph") for node in api.values()):
        if title:
            inside = {key: node for key, node in api.items() if node["_meta"].get("subgraph") == title}
            made[title] = int(opened.evaluate(FOLD, {"title": title, "ids": [int(key) for key in inside]}))
            shown[made[title]] = [[key, field] for key, node in inside.items()
                                  for field in node["_meta"].get("shown", [])]  # fmt: skip
    if made:
        # The frontend takes up what such a node shows when it opens a graph.
        graph = saved(opened)
        for node in graph["nodes"]:
            if node["id"] in shown:
                node["properties"]["proxyWidgets"], node["widgets_values"] = shown[node["id"]], []
                node.pop("widgets_values_named", None)
        load_ui(opened, graph)
    return made


def picture(opened: Any, path: Path) -> None:
    """Photograph the whole graph."""
    # A first visit opens the template browser over it.
    opened.keyboard.press("Escape")
    opened.evaluate(SHOW_ALL)
    opened.wait_for_timeout(1500)
    opened.screenshot(path=str(path))


def write_ui(opened: Any, name: str) -> Path:
    """Write a graph's editor form from ``workflows/api/NAME.json``.

    Raises:
        RuntimeError: the host does not have every node of the graph.
    """
    note = WORKFLOWS / "api" / f"{name}.md"
    load_api(
        opened,
        json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8")),
        note.read_text(encoding="utf-8") if note.exists() else "",
    )
    if unknown := missing(opened):
        raise RuntimeError(f"{name}: this host does not have {', '.join(sorted(set(unknown)))}.")
    return write(editor_form(name), with_sam3(saved(opened)))


def write_blueprint(opened: Any, name: str) -> Path:
    """Write ``subgraphs/NAME.json`` from ``subgraphs/api/NAME.json``, an API form with what its one node shows.

    Raises:
        RuntimeError: the host does not have every node of the graph.
    """
    api = json.loads((BLUEPRINTS / "api" / f"{name}.json").read_text(encoding="utf-8"))
    shown = api.pop("_blueprint")
    load_api(opened, api)
    if unknown := missing(opened):
        raise RuntimeError(f"{name}: this host does not have {', '.join(sorted(set(unknown)))}.")
    return write(BLUEPRINTS / f"{name}.json", blueprint(name, saved(opened), shown))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME", help="a graph of workflows/api/, without .json")
    parser.add_argument("--url", default="http://127.0.0.1:8188", help="a running ComfyUI with this pack")
    parser.add_argument("--values", action="store_true", help="only carry values of widgets and the note over")
    parser.add_argument("--blueprint", action="store_true", help="draw blueprints, of subgraphs/api/")
    parser.add_argument("--picture", type=Path, help="also write a picture of the (last) graph")
    args = parser.parse_args()
    if args.values:
        for name in args.names:
            print(carry_values(name))
        return 0
    with page(args.url) as opened:
        for name in args.names:
            print((write_blueprint if args.blueprint else write_ui)(opened, name))
        if args.picture:
            picture(opened, args.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
