"""Every node under odd input: a result without NaN, or one sentence. ``STEADYEDIT_FUZZ=N`` tries N cases a node."""

from __future__ import annotations

import sys

import pytest
import torch
from fuzzing import CASES, Values, fuzz

pytestmark = pytest.mark.skipif("comfy_api" in sys.modules, reason="a host is loaded in this process")


@pytest.fixture(scope="module")
def nodes():
    from steadyedit.standalone import host_api

    with host_api.installed():
        from steadyedit.nodes import node_list

        yield {node.GET_SCHEMA().node_id: node for node in node_list()}


@pytest.fixture(scope="module")
def held(nodes):
    from steadyedit.standalone import host_api

    with host_api.installed():
        return nodes["SteadyEditToyModel"].execute().args


def test_every_node_answers_with_a_result_or_a_sentence(nodes, tmp_path, monkeypatch):
    from steadyedit.files import places
    from steadyedit.standalone import host_api
    from steadyedit.standalone.core_sampling import Guider
    from steadyedit.standalone.video_values import Video, VideoComponents

    monkeypatch.setenv("STEADYEDIT_WEIGHTS", str(tmp_path / "weights"))
    values = Values(nodes, lambda images, rate: Video(VideoComponents(images, rate)),
                    lambda model, text: Guider(model, text, text, 2.0), "euler")  # fmt: skip
    with host_api.installed(), places.using(places.Folders(tmp_path, tmp_path)):
        raw, counts = fuzz(values, CASES or 3)
    assert not raw, "\n".join(raw)
    assert counts.keys() == nodes.keys() and all(map(sum, counts.values()))
    good, refused = (sum(pair[i] for pair in counts.values()) for i in (0, 1))
    tried = good + refused
    assert tried >= 150 and refused > tried // 4 and good > 20


@pytest.mark.parametrize(("latent", "width", "sentence"), [
    ((2, 3, 8, 8), 0, r"latent: expected .frames, 4, height, width. for this model, but got .2, 3, 8, 8."),
    ((2, 8, 8, 8), 0, "latent: expected .frames, 4, height, width. for this model"),
    ((2, 4, 8, 8), 7, "conditioning: its text is 7 wide, but this model reads"),
    ((2, 4, 8, 8), -1, "conditioning: it holds NaN or infinite values"),
])  # fmt: skip
def test_what_does_not_fit_the_model_is_named(nodes, held, latent, width, sentence):
    from steadyedit.standalone import host_api

    ((text, extra),) = held[1].encode_from_tokens_scheduled(held[1].tokenize("a ball"))
    text = torch.zeros(1, 77, width) if width > 0 else text + float("nan") if width else text
    with host_api.installed(), torch.no_grad(), pytest.raises(ValueError, match=sentence):
        nodes["SteadyEditDDIMInversion"].execute(model=held[0], conditioning=[[text, extra]], steps=1, refinement=0,
                                                 latent={"samples": torch.zeros(latent)})


def test_a_root_candidate_of_nan_is_not_picked(nodes):
    from steadyedit.standalone import host_api

    candidates = torch.rand(3, 16, 16, 3)
    candidates[1] = float("nan")
    with host_api.installed(), pytest.raises(ValueError, match="candidates: it holds NaN"):
        nodes["SteadyEditPickRoot"].execute(candidates=candidates, source_frame=torch.rand(1, 16, 16, 3), index=2,
                                            preservation=0.5)
