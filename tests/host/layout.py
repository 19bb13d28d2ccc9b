"""Lay a graph out anew, in place, from the sizes that its nodes have in both of the editor's renderers:

    python tests/host/layout.py FILE.json... [--url http://127.0.0.1:8188] [--also COMFYUI] [--picture FILE.png]

Without ``--url`` a ComfyUI of its own is started (COMFYUI_PATH, else ~/comfy/ComfyUI). ``--also`` names the folder of
another one, whose nodes are measured as well: older hosts show every setting, and their nodes are higher. Places and
sizes of nodes, frames of groups, reroutes of links and what the graph opens with change, and nothing else: what the
editor queues is asserted to be the same before and after.
Blueprints (``subgraphs/NAME.json``) are laid out inside of their node. Needs ``pip install playwright`` and a Chromium.

Which group a node belongs to is where it lies; groups stand in the order of their numbers. A node's room is its larger
size of both renderers and all hosts, and below it what a preview takes after a run (``PREVIEW``); notes and
fields of text are made as high as their text.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import frontend
from layers import PAD, TITLE, Arrangement, Bend, Box, Link

NOTES = {"Note", "MarkdownNote"}
#: What a graph opens with lies as far from the corner of the screen.
BEGIN = (120, 120)
NOTE_WIDTH, NODE_WIDTH, TEXT_WIDTH = 460, 300, 360
#: What a run adds to a node's height, in the renderer that gives it more: a picture or a video; a line of progress.
PREVIEW, PROGRESS = 300, 50
#: Nodes beside those that save which show pictures: results, or previews while they work.
PICTURES = re.compile("Sampl|Tune|Adapt|Train|TextMask|Root|LoadVideo|LoadImage|Graph")

# Height of the text that a node cuts off, per node: fields and notes that would have to be scrolled.
CUT = """async (id) => {
  const node = app.canvas.graph.getNodeById(id), ds = app.canvas.ds;
  ds.scale = 1; ds.offset = [200 - node.pos[0], 100 - node.pos[1]];
  app.canvas.setDirty(true, true);
  await new Promise((done) => setTimeout(done, 250));
  const roots = [document.querySelector(`[data-node-id="${id}"]`), ...(node.widgets ?? []).map((w) => w.element)];
  const parts = roots.filter((e) => e?.isConnected).flatMap((e) => [e, ...e.querySelectorAll('*')]);
  return Math.max(0, ...parts.filter((e) => ['auto', 'scroll'].includes(getComputedStyle(e).overflowY))
    .map((e) => e.scrollHeight - e.clientHeight));
}"""
MEASURE = """() => app.canvas.graph.nodes.map((n) => ({
  id: n.id, type: n.type, width: Math.max(n.size[0], n.computeSize()[0]),
  height: Math.max(n.size[1], n.computeSize()[1]),
  inputs: (n.inputs ?? []).map((_, i) => n.getConnectionPos(true, i)[1] - n.pos[1]),
  outputs: (n.outputs ?? []).map((_, i) => n.getConnectionPos(false, i)[1] - n.pos[1]),
  text: (n.widgets ?? []).some((w) => ['customtext', 'MARKDOWN', 'markdown'].includes(w.type)),
  saves: !!n.constructor.nodeData?.output_node,
}))"""
INSIDE = "(id) => app.canvas.setGraph((app.rootGraph ?? app.graph).subgraphs.get(id))"


def inner(graph: dict[str, Any]) -> dict[str, Any]:
    """What is laid out: the graph itself, or what a blueprint's one node holds."""
    found = graph.get("definitions", {}).get("subgraphs", [])
    return found[0] if len(graph["nodes"]) == 1 and found else graph


def links_of(part: dict[str, Any]) -> list[Link]:
    """The links between nodes; those to a blueprint's own ends are left out."""
    fields = ("origin_id", "origin_slot", "target_id", "target_slot")
    rows = [[one[name] for name in fields] if isinstance(one, dict) else one[1:5] for one in part["links"]]
    keys = {node["id"] for node in part["nodes"]}
    return [Link(str(a), slot, str(b), place) for a, slot, b, place in rows if a in keys and b in keys]


def growth(kind: str, saves: bool) -> int:
    """What a run adds to the height of a node of this type."""
    if saves or PICTURES.search(kind):
        return PREVIEW
    return PROGRESS if kind.startswith("SteadyEdit") else 0


def open_part(opened: Any, graph: dict[str, Any]) -> None:
    """Put the graph on the canvas and, for a blueprint, go into its node."""
    frontend.load_ui(opened, graph)
    if inner(graph) is not graph:
        opened.evaluate(INSIDE, inner(graph)["id"])
        frontend.settle(opened)


def number_of(title: str) -> int:
    """The number that a group's title begins with; 0: none."""
    begins = re.match(r"\d+", title)
    return int(begins[0]) if begins else 0


def groups_of(part: dict[str, Any]) -> dict[str, int]:
    """The group of each node, by the middle of it; -1: none, as notes."""
    ordered = sorted(part.get("groups", []), key=lambda group: (number_of(group["title"]), group["bounding"][:2]))
    found = {}
    for node in part["nodes"]:
        x, y = (node["pos"][i] + node["size"][i] / 2 for i in (0, 1))
        around = [i for i, group in enumerate(ordered) if 0 <= x - group["bounding"][0] <= group["bounding"][2]
                  and -TITLE <= y - group["bounding"][1] <= group["bounding"][3]]  # fmt: skip
        found[str(node["id"])] = -1 if node["type"] in NOTES or not around else around[0]
    part["groups"] = ordered
    return found


def drawn_nodes(opened: Any, part: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What the editor shows of each node, by the node's number in the file.

    The editor may give nodes inside of a blueprint other numbers, and keeps their order.
    """
    seen = opened.evaluate(MEASURE)
    if [one["type"] for one in seen] != [node["type"] for node in part["nodes"]]:
        raise RuntimeError("The editor does not show the graph's nodes in the order of the file.")
    return {str(node["id"]): one for node, one in zip(part["nodes"], seen)}


def measure(opened: Any, graph: dict[str, Any], nodes_2: bool) -> dict[str, dict[str, Any]]:
    """Each node as one renderer draws it; nodes that cut their text off are made higher first."""
    frontend.choose_renderer(opened, nodes_2)
    open_part(opened, graph)
    seen = drawn_nodes(opened, inner(graph))
    for one in seen.values():
        if one["text"]:
            for _ in range(3):
                if not (cut := opened.evaluate(CUT, one["id"])):
                    break
                one["height"] += cut + 4
                opened.evaluate(
                    "([id, size]) => app.canvas.graph.getNodeById(id).setSize(size)",
                    [one["id"], [one["width"], one["height"]]],
                )
    return seen


Sizes = dict[str, dict[str, Any]]


def measured(opened: Any, graph: dict[str, Any]) -> list[Sizes]:
    """Each node on the canvas and in Nodes 2.0, at the least size that it needs; sizes in ``graph`` become these."""
    part = inner(graph)
    frontend.choose_renderer(opened, False)
    open_part(opened, graph)
    first = drawn_nodes(opened, part)
    for node in part["nodes"]:
        text = first[str(node["id"])]["text"]
        wide = NOTE_WIDTH if node["type"] in NOTES else TEXT_WIDTH if text else NODE_WIDTH
        # The size that it had before is no measure; what it needs is.
        node["size"] = [wide, 90 if text else 40]
    return [measure(opened, graph, nodes_2) for nodes_2 in (False, True)]


def place(graph: dict[str, Any], member: dict[str, int], canvas: Sizes, elsewhere: Sequence[Sizes]) -> None:
    """Move the nodes of ``graph`` to their places and give them their sizes.

    Args:
        member: the group of each node; -1: none.
        canvas: sizes of its nodes on the canvas, where links are drawn from.
        elsewhere: their sizes in other renderers and hosts.
    """
    part = inner(graph)

    def most(key: str, what: str) -> float:
        return max(sizes[key][what] for sizes in (canvas, *elsewhere))

    notes = [str(node["id"]) for node in part["nodes"] if node["type"] in NOTES]
    boxes, loose = {}, len(part["groups"])
    for node in part["nodes"]:
        key = str(node["id"])
        here = canvas[key]
        node["size"] = [most(key, "width"), most(key, "height") if here["text"] else here["height"]]
        if key in notes:
            continue
        drawn = most(key, "height")
        room = drawn + growth(node["type"], here["saves"])
        group = member[key]
        if group < 0:
            group, loose = loose, loose + 1
        boxes[key] = Box(node["size"][0], room, drawn, group, here["inputs"], here["outputs"])
    used = sorted({box.group for box in boxes.values()})
    for box in boxes.values():
        box.group = used.index(box.group)
    arranged = Arrangement(boxes, links_of(part), NOTE_WIDTH + PAD if notes else 0)
    arranged.improve(bends=part is graph)
    places, frames = arranged.places()
    for node in part["nodes"]:
        if (key := str(node["id"])) in places:
            node["pos"] = [round(value) for value in places[key]]
        node["size"] = [round(value) for value in node["size"]]
    for number, frame in zip(used, frames):
        if number < len(part["groups"]):
            part["groups"][number]["bounding"] = [round(value) for value in frame]
    if part is graph:
        begin_beside_the_first_group(graph)
        bend(graph, arranged)
    else:
        ends_beside(part, frames)


def begin_beside_the_first_group(graph: dict[str, Any]) -> None:
    """Notes begin as high as the first group, and so does what the editor shows first."""
    top = round(graph["groups"][0]["bounding"][1]) if graph["groups"] else 0
    y = top + TITLE
    for node in graph["nodes"]:
        if node["type"] in NOTES:
            node["pos"] = [0, y]
            y += round(node["size"][1]) + 2 * TITLE
    x, above = BEGIN
    graph.setdefault("extra", {}).setdefault("ds", {"scale": 0.6})["offset"] = [x, above - top]


def bend(graph: dict[str, Any], arranged: Arrangement) -> None:
    """Write the bends of links as the editor's reroutes, in place of those that were there."""
    extra = graph.setdefault("extra", {})
    for name in ("reroutes", "linkExtensions"):
        extra.pop(name, None)
    if not arranged.bends:
        return
    number = {one: at + 1 for at, one in enumerate(arranged.bends)}
    passes: dict[int, list[int]] = {at: [] for at in number.values()}
    extra["linkExtensions"] = []
    for at, one in sorted(arranged.last.items()):
        link = graph["links"][at][0]
        extra["linkExtensions"].append({"id": link, "parentId": number[one]})
        passed: Bend | None = one
        while passed is not None:
            passes[number[passed]].append(link)
            passed = arranged.bends[passed]
    extra["reroutes"] = [
        {"id": number[one], **({} if before is None else {"parentId": number[before]}),
         "pos": [round(value) for value in arranged.bent()[one]], "linkIds": passes[number[one]]}
        for one, before in arranged.bends.items()]  # fmt: skip


def lay_out(opened: Any, graph: dict[str, Any], elsewhere: Sequence[Sizes] = ()) -> dict[str, Any]:
    """The same graph with other places and sizes; ``graph`` itself is changed.

    Args:
        elsewhere: sizes of its nodes in other hosts.

    Raises:
        RuntimeError: the editor would not queue the same as before.
    """
    frontend.choose_renderer(opened, False)
    frontend.load_ui(opened, graph)
    before = frontend.exported(opened)
    # Groups are told by where nodes lie, so before their sizes change.
    member = groups_of(inner(graph))
    canvas, vue = measured(opened, graph)
    place(graph, member, canvas, (vue, *elsewhere))
    graph.setdefault("extra", {})
    frontend.load_ui(opened, graph)
    if frontend.exported(opened) != before:
        raise RuntimeError("The laid out graph does not queue as it did.")
    return graph


def ends_beside(part: dict[str, Any], frames: list[tuple[float, float, float, float]]) -> None:
    """A blueprint's own inputs to the left of everything, its outputs to the right."""
    right = max(x + width for x, _, width, _ in frames)
    for name, slots, x in (("inputNode", "inputs", -260), ("outputNode", "outputs", right + 120)):
        part[name]["bounding"] = [x, 20, *part[name]["bounding"][2:]]
        for place, slot in enumerate(part[slots]):
            slot["pos"] = [x + (120 if slots == "inputs" else 20), 40 + 20 * place]


@contextmanager
def editor(url: str | None, comfy: Path | None = None):
    """An open page on a running ComfyUI, or on one that is started for it."""
    if url:
        with frontend.page(url) as opened:
            yield opened
        return
    from steadyedit.standalone.comfy_process import find_comfy, running

    comfy = comfy or find_comfy()
    if comfy is None:
        raise RuntimeError("No ComfyUI was found: name its folder by COMFYUI_PATH, or a running one by --url.")
    with tempfile.TemporaryDirectory() as output, running(comfy, Path(output), editor=True) as host:
        with frontend.page(f"http://127.0.0.1:{host.port}") as opened:
            yield opened


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a graph as the editor saves it")
    parser.add_argument("--url", help="a running ComfyUI with this pack; else one is started")
    parser.add_argument("--picture", type=Path, help="also write a picture of the (last) graph")
    parser.add_argument("--also", type=Path, action="append", default=[], metavar="COMFYUI",
                        help="a folder of another ComfyUI, whose nodes are measured, too")  # fmt: skip
    args = parser.parse_args()
    graphs = {file: json.loads(file.read_text(encoding="utf-8")) for file in args.files}
    elsewhere: dict[Path, list[Sizes]] = {file: [] for file in graphs}
    for comfy in args.also:
        with editor(None, comfy) as opened:
            opened.keyboard.press("Escape")
            for file, graph in graphs.items():
                elsewhere[file] += measured(opened, deepcopy(graph))
    with editor(args.url) as opened:
        opened.keyboard.press("Escape")
        for file, graph in graphs.items():
            print(frontend.write(file, lay_out(opened, graph, elsewhere[file])), flush=True)
        if args.picture:
            open_part(opened, graph)
            frontend.picture(opened, args.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
