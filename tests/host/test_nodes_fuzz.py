"""Every node under odd input, in the host: see ``fuzzing``."""

from __future__ import annotations

from fractions import Fraction

import comfy.samplers
import folder_paths
import torch
from comfy_api.latest import InputImpl, Types
from fuzzing import CASES, Values, fuzz
from steadyedit.backends.comfy_native.sampling import guider_of
from steadyedit.nodes import node_list


def video(images: torch.Tensor, rate: Fraction):
    return InputImpl.VideoFromComponents(Types.VideoComponents(images=images, audio=None, frame_rate=rate))


def test_every_node_answers_with_a_result_or_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("STEADYEDIT_WEIGHTS", str(tmp_path / "weights"))
    for folder in ("input", "output", "temp"):
        (tmp_path / folder).mkdir()
        monkeypatch.setattr(folder_paths, f"{folder}_directory", str(tmp_path / folder))
    nodes = {node.GET_SCHEMA().node_id: node for node in node_list()}
    values = Values(nodes, video, lambda model, text: guider_of(model, {"positive": text, "negative": text}, 2.0),
                    comfy.samplers.sampler_object("euler"))  # fmt: skip
    with torch.inference_mode():
        raw, counts = fuzz(values, CASES or 3)
    assert not raw, "\n".join(raw)
    assert counts.keys() == nodes.keys() and all(map(sum, counts.values()))
    good, refused = (sum(pair[i] for pair in counts.values()) for i in (0, 1))
    tried = good + refused
    assert tried >= 150 and refused > tried // 4 and good > 20
