"""The editor's own help panel shows each node's page with a picture of the node as it is."""

from __future__ import annotations

import frontend
import help_pictures
import pytest

# Older hosts show every setting, and have other names for some.
pytestmark = pytest.mark.once
NODES = sorted(path.stem for path in help_pictures.DOCS.glob("*.md"))
# Another node in the place of the one that is selected.
SELECT = """(id) => {
  const node = LiteGraph.createNode(id), root = [...document.querySelectorAll('*')].find((e) => e.__vue_app__);
  app.canvas.deselectAll();
  app.graph.clear();
  app.graph.add(node);
  app.canvas.select(node);
  root.__vue_app__.config.globalProperties.$pinia._s.get('canvas').updateSelectedItems();
}"""
SHOWN = """(id) => {
  const one = [...document.querySelectorAll('.node-help-content img')].find((i) => i.src.endsWith(`/${id}.webp`));
  return !!one?.complete && one.naturalWidth > 300 && one.getBoundingClientRect().width > 100;
}"""


@pytest.fixture(scope="module")
def panel(opened):
    """The help panel, opened as a user does: from the menu of a node."""
    frontend.choose_renderer(opened, False)
    frontend.load_api(opened, {"1": {"class_type": "SteadyEditToyClip", "inputs": {}, "_meta": {"title": "Toy Clip"}}})
    x, y = opened.evaluate("""() => {
        Object.assign(app.canvas.ds, { scale: 1, offset: [400, 300] });
        const node = app.graph.nodes[0], box = app.canvas.canvas.getBoundingClientRect();
        node.pos = [0, 0];
        app.canvas.draw(true, true);
        return [box.left + 400 + node.size[0] / 2, box.top + 300 - 15];
    }""")
    opened.mouse.click(x, y)
    opened.locator("[data-testid=info-button]").click()
    opened.wait_for_function(SHOWN, arg="SteadyEditToyClip", timeout=120_000)
    yield opened
    opened.evaluate("""async () => {
        app.canvas.deselectAll();
        await app.extensionManager.setting.set('Comfy.RightSidePanel.IsOpen', false);
    }""")


def test_each_page_shows_its_picture(panel):
    for node in NODES:
        panel.evaluate(SELECT, node)
        panel.wait_for_function(SHOWN, arg=node, timeout=120_000)


def test_pictures_show_the_nodes_as_they_are(opened):
    """Where one has other inputs, outputs or labels now: ``python tests/host/help_pictures.py NODE_ID``."""
    now = {node: opened.evaluate(help_pictures.LABELS, node) for node in NODES}
    assert {node: help_pictures.words_of(node) for node in NODES} == now
