"""The editor's own help panel shows each node's page with a picture of the node as it is."""

from __future__ import annotations

import frontend
import help_pictures
import pytest

# Older hosts show every setting, and have other names for some.
pytestmark = pytest.mark.once
NODES = sorted(path.stem for path in help_pictures.DOCS.glob("*.md"))
# Where the editor keeps which page is open.
OPEN = """(id) => {
  const root = [...document.querySelectorAll('*')].find((e) => e.__vue_app__).__vue_app__;
  const stores = root.config.globalProperties.$pinia._s;
  stores.get('nodeHelp').openHelp(stores.get('nodeDef').nodeDefsByName[id]);
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
    opened.evaluate("() => app.canvas.select(app.graph.nodes[0])")
    opened.locator("[data-testid=info-button]").click()
    opened.wait_for_function(SHOWN, arg="SteadyEditToyClip", timeout=30_000)
    yield opened
    opened.evaluate("() => app.canvas.deselectAll()")


def test_each_page_shows_its_picture(panel):
    for node in NODES:
        panel.evaluate(OPEN, node)
        panel.wait_for_function(SHOWN, arg=node, timeout=30_000)


def test_pictures_show_the_nodes_as_they_are(opened):
    """Where one has other inputs, outputs or labels now: ``python tests/host/help_pictures.py NODE_ID``."""
    now = {node: opened.evaluate(help_pictures.LABELS, node) for node in NODES}
    assert {node: help_pictures.words_of(node) for node in NODES} == now
