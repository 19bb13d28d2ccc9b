"""ComfyUI's SAM 3 nodes in graphs for real models: off they leave no trace, on they are what masks the object."""

from __future__ import annotations

import json
import re

import frontend
import pytest
from folded_graphs import BYPASSED
from forms import editor_forms
from sam3 import FILE, FIRST_LINE, TITLE, TRACK, with_sam3
from steadyedit.vision.region import regions_of, words_at

pytestmark = pytest.mark.once
FORMS = editor_forms()


def held(name):
    graph = json.loads(FORMS[name].read_text(encoding="utf-8"))
    return graph, [node for node in graph["nodes"] if node.get("title") == TITLE]


def test_every_graph_for_real_models_that_tracks_an_object_has_them_off():
    with_track = {name for name in FORMS if not name.startswith("toy_") and TRACK in FORMS[name].read_text("utf-8")}
    found = {name: held(name)[1] for name in FORMS}
    assert {name for name, nodes in found.items() if nodes} == with_track and len(with_track) == 9
    assert {node["mode"] for nodes in found.values() for node in nodes} == {BYPASSED}
    graph, _ = held("via_local")
    before = json.dumps(graph)
    assert json.dumps(with_sam3(graph)) == before, "once is enough"


@pytest.mark.parametrize("name", ["via_local", "lora_edit_wan"])
def test_switched_on_they_take_the_place_of_the_tracker(started, editor, name):
    """The words are the graph's own, the clicks Point Mask's; nothing but the user's file is missing to the host."""
    if "SAM3_VideoTrack" not in started.ask("/object_info"):
        pytest.skip("this ComfyUI has no SAM 3")
    graph, (node,) = held(name)
    node["mode"] = 0
    frontend.load_ui(editor, graph)
    queued = frontend.exported(editor)
    kinds = {key: one["class_type"] for key, one in queued.items()}
    (track,) = (key for key, kind in kinds.items() if kind == TRACK)
    assert not [key for key, one in queued.items() if [track, 0] in list(one["inputs"].values())]
    (mask,) = (key for key, kind in kinds.items() if kind == "SAM3_TrackToMask")
    assert [key for key, one in queued.items() if [mask, 0] in list(one["inputs"].values())]
    found, clicked = sorted((one for key, one in queued.items() if kinds[key] == "SAM3_VideoTrack"),
                            key=lambda one: "initial_mask" in one["inputs"])  # fmt: skip
    words = queued[found["inputs"]["conditioning"][0]]["inputs"]["text"]
    (own,) = (one["inputs"]["text"] for key, one in queued.items() if kinds[key] == "SteadyEditTextMask")
    assert kinds[words[0]] == "RegexReplace" and queued[words[0]]["inputs"]["string"] == own
    assert kinds[clicked["inputs"]["initial_mask"][0]] == "SteadyEditPointMask"
    keys = [key for key, kind in kinds.items() if kind.startswith("SAM3_") or queued[key]["inputs"].get(
        "ckpt_name") == FILE]  # fmt: skip
    errors = started.ask("/prompt", {"prompt": queued}).get("node_errors", {})
    told = [(key, one["details"]) for key in keys for one in errors.get(key, {}).get("errors", [])]
    assert len(told) == 1 and FILE in told[0][1], told


@pytest.mark.parametrize("text", ["coat", "dog . red ball", "0: man\n24: old man", " 0 : man ", "0: man\r\n24: hat"])
def test_they_look_for_what_text_mask_looks_for_first(text):
    pattern, first = FIRST_LINE
    assert re.sub(pattern, first, text, flags=re.IGNORECASE).strip() == words_at(regions_of(text), 0).strip()
