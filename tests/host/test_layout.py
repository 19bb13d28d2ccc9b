"""The shipped graphs lie well in the host's own editor, in both of its renderers."""

from __future__ import annotations

import json
from itertools import combinations

import frontend
import layers
import layout
import numpy as np
import pytest
from forms import editor_forms

# Laid out for hosts that fold rare settings away. ComfyUI 0.8.0 shows them all, and in Nodes 2.0 nodes of six graphs
# touch a neighbour or reach over their group's frame there.
pytestmark = pytest.mark.once
FILES = {**editor_forms(), **{path.stem: path for path in sorted(frontend.BLUEPRINTS.glob("*.json"))}}
SEEN = """() => ({
  nodes: app.canvas.graph.nodes.map((n) => [n.title, n.pos[0], n.pos[1] - 30, n.size[0], n.size[1] + 30]),
  groups: app.canvas.graph.groups.map((g) => [g.title, ...g.pos, ...g.size]),
  // From an output by way of reroutes to an input, a row a piece; pieces that several links share appear for each.
  links: [...app.canvas.graph.links.values()].flatMap((l) => {
    const [from, to] = [l.origin_id, l.target_id].map((id) => app.canvas.graph.getNodeById(id));
    if (!from || !to) return [];
    const points = [to.getConnectionPos(true, l.target_slot)];
    for (let at = l.parentId; at !== undefined; at = app.canvas.graph.reroutes.get(at).parentId)
      points.unshift(app.canvas.graph.reroutes.get(at).pos);
    points.unshift(from.getConnectionPos(false, l.origin_slot));
    return [points.slice(1).map((point, i) => [...points[i], ...point])];
  }),
  notes: app.canvas.graph.nodes.filter((n) => n.type === 'MarkdownNote').map((n) => n.id),
})"""
#: Toy graphs with pictures, videos, curves and lines of progress, and values of widgets with which they run in seconds.
QUICK = {
    "toy_via_local_text": {
        "SteadyEditToyClip": {"frames": 4}, "SteadyEditRootCandidates": {"count": 2, "steps": 2},
        "SteadyEditTestTimeAdapt": {"steps": 2, "variants": 4}, "SteadyEditDDIMInversion": {"steps": 2},
        "SteadyEditTextMask": {"every": 4},
    },
    "toy_lora_edit": {
        "SteadyEditToyClip": {"frames": 5}, "SteadyEditMaskLoRATrain": {"steps": 2}, "KSampler": {"steps": 2},
    },
}  # fmt: skip
# As large as Nodes 2.0 draws them, where it does; and whether a picture, a video or a player is on them.
DRAWN = """() => app.canvas.graph.nodes.map((n) => {
  const box = document.querySelector(`[data-node-id="${n.id}"]`), scale = app.canvas.ds.scale;
  const [width, height] = box ? [box.offsetWidth, box.offsetHeight] : [0, 0];
  const shows = n.imgs?.length || n.widgets?.some((w) => w.element?.querySelector('video, canvas'))
    || box?.querySelector('img, video, canvas');
  return [n.title, n.pos[0], n.pos[1] - 30, Math.max(n.size[0], width), Math.max(n.size[1] + 30, height), !!shows];
})"""
MOST_CROSSINGS_PER_LINK = 1.0
#: Of a note's text, in pixels: less than a line.
CUT = 16


@pytest.fixture(scope="module", params=["canvas", "nodes 2.0"])
def drawn(opened, request):
    frontend.choose_renderer(opened, request.param == "nodes 2.0")
    # Sizes are the graph's, whatever the window shows of it; a small one is drawn sooner.
    usual = opened.viewport_size
    opened.set_viewport_size({"width": 640, "height": 400})
    yield opened
    opened.set_viewport_size(usual)


def overlapping(nodes):
    """Pairs of rectangles (title, x, y, width, height) that have more than a hair in common."""
    def common(a, b, i):
        return min(a[i] + a[i + 2], b[i] + b[i + 2]) - max(a[i], b[i])

    return [(a[0], b[0]) for a, b in combinations(nodes, 2) if common(a, b, 1) > 1 and common(a, b, 2) > 1]


def outside(nodes, groups):
    """Nodes that reach over the frame of the group in which their title begins."""
    return [title for title, x, y, width, height in nodes for _, left, top, wide, high in groups
            if left <= x < left + wide and top <= y < top + high
            and not (x + width <= left + wide and y + height <= top + high)]  # fmt: skip


def test_no_two_nodes_overlap_and_links_rarely_cross(drawn):
    """All graphs in one editor; a link's ends count as the canvas draws them, its reroutes as bends."""
    crossed = {}
    for name, path in FILES.items():
        graph = json.loads(path.read_text(encoding="utf-8"))
        layout.open_part(drawn, graph)
        seen = drawn.evaluate(SEEN)
        assert len(seen["nodes"]) == len(layout.inner(graph)["nodes"]) and seen["groups"], name
        assert overlapping(seen["nodes"]) == [], name
        assert overlapping(seen["groups"]) == [], name
        assert outside(seen["nodes"], seen["groups"]) == [], name
        pieces = np.unique(np.array([piece for link in seen["links"] for piece in link], float), axis=0)
        crossed[name] = layers.crossings(pieces) / len(seen["links"])
        assert all(drawn.evaluate(layout.CUT, note) < CUT for note in seen["notes"]), name
    assert {name: crossings for name, crossings in crossed.items()
            if crossings > MOST_CROSSINGS_PER_LINK} == {}  # fmt: skip


@pytest.mark.parametrize("name", QUICK)
def test_no_node_covers_another_after_a_run(drawn, name):
    """With what a run shows; the second renderer has it from the host's cache."""
    graph = json.loads(FILES[name].read_text(encoding="utf-8"))
    for node in graph["nodes"]:
        node["widgets_values"] = list((node.get("widgets_values_named", {})
                                       | QUICK[name].get(node["type"], {})).values())  # fmt: skip
    frontend.load_ui(drawn, graph)
    drawn.evaluate(frontend.SHOW_ALL)
    before = drawn.evaluate(DRAWN)
    frontend.run(drawn)
    drawn.wait_for_timeout(1500)
    frontend.settle(drawn)
    seen = drawn.evaluate(DRAWN)
    # Result and frames at the least.
    assert sum(shows for *_, shows in seen) >= sum(shows for *_, shows in before) + 2
    assert overlapping([node[:5] for node in seen]) == [], name


def test_crossings_are_counted():
    """Of three links through one point each pair crosses; links that share an end do not."""
    star = np.array([[0, 0, 10, 10], [0, 10, 10, 0], [0, 4, 10, 6], [0, 0, 10, 5]], float)
    assert layers.crossings(star[:3]) == 3
    assert layers.crossings(star[[0, 3]]) == 0
    assert layers.crossings(np.array([[0, 0, 1, 0], [2, -1, 2, 1]], float)) == 0


def test_links_run_together_where_they_would_cross_too_often():
    """Four outputs to three nodes of each of two groups: as reroutes of the editor, each on the way of its links."""
    boxes = {f"from {i}": layers.Box(100, 60, 60, 0, [], [10.0]) for i in range(4)}
    boxes |= {f"to {group}{i}": layers.Box(100, 90, 90, group, [10.0, 30.0, 50.0, 70.0], []) for group in (1, 2)
              for i in range(3)}  # fmt: skip
    links = [layers.Link(f"from {i}", 0, key, i) for key in boxes if key[:2] == "to" for i in range(4)]
    arranged = layers.Arrangement(boxes, links)
    arranged.order.ranks = [0, 1, 2]
    straight = arranged.crossings_of(arranged.order)
    arranged.improve(steps=400, tries=1)
    assert arranged.crossings_of(arranged.order) < straight / 2 and len(arranged.bends) == 8
    graph = {"links": [[100 + at] for at in range(len(links))], "extra": {"ds": {}, "reroutes": ["old"]}}
    layout.bend(graph, arranged)
    reroutes = {one["id"]: one for one in graph["extra"]["reroutes"]}
    frames = arranged.places()[1]
    for one in graph["extra"]["linkExtensions"]:
        link, last = links[one["id"] - 100], reroutes[one["parentId"]]
        group = boxes[link.target].group
        passed = [last] if group == 1 else [last, reroutes[last["parentId"]]]
        assert all(one["id"] in reroute["linkIds"] for reroute in passed) and "parentId" not in passed[-1]
        assert [reroute["pos"][0] for reroute in passed] == [frames[at][0] - layers.APART / 2
                                                             for at in range(group, 0, -1)]  # fmt: skip
    assert len(graph["extra"]["linkExtensions"]) == len(links) and graph["extra"]["ds"] == {}
    layout.bend(graph, layers.Arrangement(boxes, links))
    assert graph["extra"] == {"ds": {}}
