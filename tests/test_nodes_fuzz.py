"""Every node under odd input: a result without NaN, or one sentence. ``STEADYEDIT_FUZZ=N`` tries N cases a node."""

from __future__ import annotations

import os
import random
import sys

import pytest
import torch

pytestmark = pytest.mark.skipif("comfy_api" in sys.modules, reason="a host is loaded in this process")

CASES = int(os.environ.get("STEADYEDIT_FUZZ", "12"))
#: Dear settings are held small; what a picker offers depends on the machine.
SMALL = {"steps": 1, "count": 1, "variants": 1, "rank": 1, "refinement": 0, "batch": 1, "bottleneck": 4, "kernel": 1,
         "width": 32, "height": 32, "multiple": 8, "padding": 0.2, "size": 32, "frames": 2, "reuse": False}
NEEDS = {"IMAGE", "MASK", "LATENT", "CONDITIONING", "MODEL", "CLIP", "VAE", "SAMPLER", "INT", "FLOAT", "STRING",
         "BOOLEAN", "COMBO"}


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


def tensor(draw, shape):
    value = torch.rand(shape, generator=torch.Generator().manual_seed(draw.randrange(2**31)))
    if value.numel() and draw.random() < 0.25:
        value.view(-1)[draw.randrange(value.numel())] = draw.choice([float("nan"), float("inf"), -float("inf")])
    return value


def value_of(draw, kind, held):
    frames, side, good = draw.choice([0, 1, 2, 2, 3]), draw.choice([0, 1, 8, 16, 32, 32, 32]), draw.random() < 0.4
    frames, side = (2, 32) if good else (frames, side)
    if kind == "IMAGE":
        return tensor(draw, (frames, side, side, 3 if good else draw.choice([1, 2, 3, 3, 4])))
    if kind == "MASK":
        return tensor(draw, draw.choice([(frames, side, side), (side, side), (1, side, side)]))
    if kind == "LATENT":
        channels = 4 if good else draw.choice([1, 3, 4, 4, 8, 16])
        shape = (frames, channels, side // 4, side // 4)
        return {"samples": tensor(draw, shape if good or draw.random() < 0.8 else (1, channels, frames, 4, 4))}
    if kind == "CONDITIONING":
        width = held[1].encode_from_tokens_scheduled(held[1].tokenize("a ball"))[0][0].shape[-1]
        if not good and draw.random() < 0.15:
            return []
        shape = (1, 77, width) if good else (draw.choice([0, 1, 1, 2]), draw.choice([0, 1, 77]),
                                             draw.choice([width, width, 7, 768]))
        return [[tensor(draw, shape), {}]]
    return {"MODEL": held[0], "CLIP": held[1], "VAE": held[2], "SAMPLER": "euler"}[kind]


def widget(draw, given):
    if given.id in SMALL and given.io_type != "STRING":
        return SMALL[given.id]
    low, high = given.settings.get("min", 0), given.settings.get("max", 1)
    if given.io_type == "INT":
        return draw.choice([given.settings.get("default", low), low, min(high, low + 3), min(high, 64)])
    if given.io_type == "FLOAT":
        return draw.choice([given.settings.get("default", low), low, high, draw.uniform(low, min(high, low + 1))])
    if given.io_type == "STRING":
        return draw.choice(["", "0", "a ball", "-1", "0, 1", "999", "\n", "é{", "1-2"])
    return draw.choice([True, False]) if given.io_type == "BOOLEAN" else draw.choice(given.options or [""])


def fuzzable(node) -> bool:
    inputs = node.GET_SCHEMA().inputs
    kinds = {given.io_type for given in inputs if not given.optional}
    pickers = any(given.io_type == "COMBO" and given.id in ("model", "name") for given in inputs)
    return kinds <= NEEDS and not pickers and bool(kinds & {"IMAGE", "MASK", "LATENT", "CONDITIONING"})


def finite(value) -> bool:
    if isinstance(value, torch.Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    if isinstance(value, dict):
        return finite(value.get("samples", 0))
    return all(map(finite, value)) if isinstance(value, (list, tuple)) else True


def test_every_node_answers_with_a_result_or_a_sentence(nodes, held, tmp_path, monkeypatch):
    from steadyedit.files import places
    from steadyedit.nodes.checked import is_sentence
    from steadyedit.standalone import host_api

    monkeypatch.setenv("STEADYEDIT_WEIGHTS", str(tmp_path))
    raw, tried, refused = [], 0, 0
    with host_api.installed(), places.using(places.Folders(tmp_path, tmp_path)):
        for name, node in nodes.items():
            if not fuzzable(node):
                continue
            for case in range(CASES):
                draw = random.Random(f"{name} {case}")
                inputs = {}
                for given in node.GET_SCHEMA().inputs:
                    if given.optional and (draw.random() < 0.5 or given.io_type not in NEEDS):
                        continue
                    widgets = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
                    inputs[given.id] = (widget(draw, given) if given.io_type in widgets
                                        else value_of(draw, given.io_type, held))
                tried += 1
                try:
                    with torch.no_grad():
                        out = node.execute(**inputs)
                except Exception as error:
                    refused += 1
                    if not is_sentence(error) and not isinstance(error, (OSError, MemoryError)):
                        raw.append(f"{name} {case}: {type(error).__name__}: {str(error)[:150]}")
                else:
                    if not all(finite(value) for value in out.args):
                        raw.append(f"{name} {case}: a result that is not finite")
    assert not raw, "\n".join(raw)
    assert tried >= 150 and refused > tried // 4 and tried - refused > 10


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
