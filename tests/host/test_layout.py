"""The shipped graphs lie well in the host's own editor, in both of its renderers, before and after a run."""

from __future__ import annotations

import json
from itertools import combinations

import frontend
import layers
import layout
import numpy as np
import pytest

FILES = {path.stem: path for folder in (frontend.WORKFLOWS, frontend.BLUEPRINTS) for path in folder.glob("*.json")}
SEEN = """() => ({
  nodes: app.canvas.graph.nodes.map((n) => [n.title, n.pos[0], n.pos[1] - 30, n.size[0], n.size[1] + 30]),
  groups: app.canvas.graph.groups.map((g) => [g.title, ...g.pos, ...g.size]),
  links: [...app.canvas.graph.links.values()].flatMap((l) => {
    const [from, to] = [l.origin_id, l.target_id].map((id) => app.canvas.graph.getNodeById(id));
    return from && to ? [[...from.getConnectionPos(false, l.origin_slot), ...to.getConnectionPos(true, l.target_slot)]]
      : [];
  }),
  notes: app.canvas.graph.nodes.filter((n) => n.type === 'MarkdownNote').map((n) => n.id),
})"""
#: Few steps: what counts is the room that results take. The seed makes a second run no cached one.
SHORT = {"SteadyEditMaskLoRATrain": {"steps": 2, "reuse": False}, "BasicScheduler": {"steps": 2},
         "SteadyEditToyClip": {"frames": 5}}  # fmt: skip


@pytest.fixture(scope="module", params=["canvas", "nodes 2.0"])
def drawn(opened, request):
    frontend.choose_renderer(opened, request.param == "nodes 2.0")
    opened.renderer = request.param
    return opened


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
    """All graphs in one editor; a link's ends count as the canvas draws them."""
    for name, path in FILES.items():
        graph = json.loads(path.read_text(encoding="utf-8"))
        layout.open_part(drawn, graph)
        seen = drawn.evaluate(SEEN)
        assert len(seen["nodes"]) == len(layout.inner(graph)["nodes"]) and seen["groups"], name
        assert overlapping(seen["nodes"]) == [], name
        assert overlapping(seen["groups"]) == [], name
        assert outside(seen["nodes"], seen["groups"]) == [], name
        assert layers.crossings(np.array(seen["links"])) <= len(seen["links"]), name
        assert [drawn.evaluate(layout.CUT, note) for note in seen["notes"]] == [0] * len(seen["notes"]), name


def test_after_a_run_no_two_nodes_overlap(drawn):
    frontend.load_ui(drawn, json.loads(FILES["toy_lora_edit"].read_text(encoding="utf-8")))
    before = {title: height for title, *_, height in drawn.evaluate(SEEN)["nodes"]}
    drawn.evaluate("""async ([short, seed]) => {
        for (const n of app.graph.nodes)
          for (const w of n.widgets ?? []) {
            w.value = short[n.type]?.[w.name] ?? w.value;
            if (n.type === 'SteadyEditToyClip' && w.name === 'seed') w.value = seed;
          }
        window.steadyeditDone = new Promise((done) => ['execution_success', 'execution_error'].forEach((type) =>
          app.api.addEventListener(type, () => done(type), { once: true })));
        await app.queuePrompt(0, 1);
    }""", [SHORT, 90 + (drawn.renderer == "canvas")])
    assert drawn.evaluate("() => window.steadyeditDone") == "execution_success"
    grown = "() => app.graph.nodes.find((n) => n.type === 'SaveVideo').size[1]"
    saved = next(title for title in before if "Save" in title)
    drawn.wait_for_function(f"(least) => ({grown})() > least", arg=before[saved] - 30 + 100, timeout=20_000)
    frontend.settle(drawn)
    seen = drawn.evaluate(SEEN)
    assert overlapping(seen["nodes"]) == []
    assert outside(seen["nodes"], seen["groups"]) == []


def test_crossings_are_counted():
    """Of three links through one point each pair crosses; links that share an end do not."""
    star = np.array([[0, 0, 10, 10], [0, 10, 10, 0], [0, 4, 10, 6], [0, 0, 10, 5]], float)
    assert layers.crossings(star[:3]) == 3
    assert layers.crossings(star[[0, 3]]) == 0
    assert layers.crossings(np.array([[0, 0, 1, 0], [2, -1, 2, 1]], float)) == 0
