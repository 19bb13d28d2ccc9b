"""30000/1001 in the host: exact wherever this pack reads or writes, and set right where the host rounds it."""

from __future__ import annotations

from fractions import Fraction

import av
import folder_paths
import pytest
import torch
from comfy_api.latest import InputImpl, Types
from steadyedit import nodes
from steadyedit.video.write import write_clip

NODES = {node.GET_SCHEMA().node_id: node for node in nodes.node_list()}


def rate_in(path):
    with av.open(str(path)) as file:
        return file.streams.video[0].average_rate


def frames_of(path):
    return NODES["SteadyEditLoadFrames"].execute(video=InputImpl.VideoFromFile(str(path)), start=0, count=0, stride=1,
                                                 size=0).args  # fmt: skip


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(30000, 1001), Fraction(60000, 1001)])
def test_rates_through_the_hosts_files(tmp_path, monkeypatch, rate):
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))
    write_clip(tmp_path / "ours.mp4", torch.rand(6, 32, 32, 3), rate)
    assert rate_in(tmp_path / "ours.mp4") == rate
    images, _, fps, _ = frames_of(tmp_path / "ours.mp4")
    assert fps == float(rate)
    # As the core Create Video does, whose file says thousandths.
    video = InputImpl.VideoFromComponents(Types.VideoComponents(images=images, audio=None, frame_rate=Fraction(fps)))
    video.save_to(str(tmp_path / "hosts.mp4"))
    assert rate_in(tmp_path / "hosts.mp4") in (rate, Fraction(round(rate * 1000), 1000))
    assert frames_of(tmp_path / "hosts.mp4")[2] == float(rate), "read again it is exact"
    out = NODES["SteadyEditCompare"].execute(before=images, after=images, fps=round(float(rate), 2))
    assert rate_in(tmp_path / out.ui["steadyedit_compare"][0]["filename"]) == rate
