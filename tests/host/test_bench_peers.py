"""The bench beside ComfyUI's own nodes: their results are ours."""

from __future__ import annotations

import pytest
from steadyedit.benchmarks.peers import core
from steadyedit.benchmarks.peers.contest import measured

CONTESTS = {
    "reading": lambda folders: core.reading(folders, (3, 64, 96)),
    "writing": lambda folders: core.writing(folders, (6, 64, 96)),
    "lora": lambda folders: core.lora_step(folders, (2, 6, 4), layers=2, width=128, inner=64, text=32),
}


@pytest.mark.once
@pytest.mark.parametrize("name", CONTESTS)
def test_beside_core(host, name):
    row = measured(CONTESTS[name]({"comfyui": host}))
    assert row["seconds"] > 0 and row["peer_seconds"] > 0 and row["words"]


def test_without_a_host_or_the_pack_it_is_said(host):
    for folders, words in (({}, "needs a ComfyUI"), ({"comfyui": host}, "needs the RAVE pack")):
        with pytest.raises(core.Absent, match=words):
            core.rave(folders)
