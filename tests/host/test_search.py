"""Artists' phrases in the frontend's own node search: the right node is among the first."""

from __future__ import annotations

from pathlib import Path

import pytest
from comfy_api.latest import io

if not hasattr(io.Schema("x"), "search_aliases"):
    pytest.skip("this host's nodes have no search aliases", allow_module_level=True)

#: One node each, ready to edit a video; the editor names them by their files.
BLUEPRINTS = {path.stem for path in (Path(__file__).parents[2] / "subgraphs").glob("Edit*.json")}
#: What is typed, and the nodes of which one must be among the first ``FIRST`` of everything that the host has.
PHRASES = {
    "video edit": {*BLUEPRINTS, "STAM", "RAVE", "GatherSwap"},
    "video editing": {"GatherSwap", "RAVE"},
    "edit my video": {"GatherSwap", "RAVE"},
    "change a video": {"GatherSwap", "RAVE"},
    "edit a video toy": {"Toy - edit a video by an instruction"},
    "mask object in video": {"Mask an object in a video"},
    "edit video": {*BLUEPRINTS, "STAM", "RAVE", "GatherSwap"},
    "consistent": {"GatherSwap", "RAVE", "STAM"},
    "inpaint video": {"BoundaryBlend", "MaskCondition"},
    "flicker": {"GatherSwap", "FFAM", "RAVE"},
    "style transfer": {"RAVE", "GatherSwap"},
    "segment": {"TextMask"},
    "click": {"PointMask"},
    "lora video": {"MaskLoRATrain"},
    "train lora on video": {"MaskLoRATrain"},
    "edit first frame": {"MaskCondition", "RootCandidates"},
    "track object": {"TrackMask"},
    "rotoscope": {"TextMask", "PointMask"},
    "mask by text": {"TextMask"},
    "select object": {"PointMask", "TextMask"},
    "clean mask": {"MaskRefine"},
    "before after": {"Compare"},
    "crop and stitch": {"CropToMask", "Stitch"},
    "match colors": {"ColorMatch"},
    "keep background": {"BoundaryBlend", "Composite"},
    "change background": {"GatherSwap"},
    "prompt per frame": {"PerFrameConditioning"},
    "load video": {"LoadFrames"},
    "describe video": {"Caption"},
}
FIRST = 6
# Where the editor keeps its search.
SEARCH = """(phrases) => {
  const root = [...document.querySelectorAll('*')].find((e) => e.__vue_app__).__vue_app__;
  const service = root.config.globalProperties.$pinia._s.get('nodeDef').nodeSearchService;
  return phrases.map((phrase) => service.searchNode(phrase, [], { limit: 64 }).map(
    (node) => node.name.startsWith('SubgraphBlueprint') ? node.display_name : node.name));
}"""


def test_phrases_of_artists_find_the_right_node(opened):
    found = dict(zip(PHRASES, opened.evaluate(SEARCH, list(PHRASES)), strict=True))
    missed = {phrase: found[phrase][:FIRST] for phrase, nodes in PHRASES.items()
              if not nodes & {name.removeprefix("SteadyEdit") for name in found[phrase][:FIRST]}}  # fmt: skip
    assert missed == {}
    # Of ours, what trains comes before what else has to do with it.
    ours = [name for name in found["lora video"] if name.startswith("SteadyEdit")]
    assert ours[0] == "SteadyEditMaskLoRATrain"
