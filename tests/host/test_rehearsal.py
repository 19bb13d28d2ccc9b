"""Shipped graphs for real models, run whole in a ComfyUI of their own on narrow random weights in the true formats.

One cheap graph at every run; REHEARSE=all takes all of them, a quarter of an hour or more on two cores.
"""

from __future__ import annotations

import os
import re

import pytest
from conftest import HOST
from steadyedit.standalone.rehearsal import probes, reduce
from steadyedit.standalone.rehearsal.pieces import read_piece, real_pieces
from steadyedit.standalone.rehearsal.run import Report, rehearse

pytestmark = pytest.mark.once
CHEAP = "Edit a video by a prompt"
NAMES = real_pieces() if os.environ.get("REHEARSE") == "all" else [CHEAP]
#: What every rehearsal says it checked, and what more where a node of these types is at work.
ALWAYS = r"\d+ frames at [\d.]+ a second with sound, nothing infinite"
MORE = {
    ("SteadyEditMaskCondition",): "the condition against an independent packing",
    ("SteadyEditComposite",): "pixels kept outside of the mask and edited inside",
    tuple(probes.SAVERS): "loaded again with the same result",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_runs_whole_and_what_it_gives_is_right(name, tmp_path):
    """A graph that needs another's result is rehearsed behind it."""
    reports = list(rehearse([name], HOST, tmp_path / "models"))
    assert [one for one in reports if not isinstance(one, Report)] == []
    (report,) = (one for one in reports if one.name == name)
    assert any(re.search(ALWAYS, one) for one in report.checked), report
    graph = reduce.reduced(read_piece(name))
    kinds = {graph[key]["class_type"] for key in reduce.running(graph)}
    missed = [said for of, said in MORE.items() if kinds & set(of) and not any(said in one for one in report.checked)]
    assert missed == []
