"""The check at full size, on a tiny network: its work, its memory, what it refuses."""

from __future__ import annotations

import json

import pytest
import torch
from steadyedit.benchmarks.lora_edit_size import run as lora_edit_size
from steadyedit.benchmarks.lora_edit_size.run import MODELS, built, main
from steadyedit.standalone.cli import main as command_line


def test_the_numbers_of_a_tiny_model(tmp_path, capsys):
    path = tmp_path / "size.json"
    report = main(["tiny"], path, ["5x64x32", "1x32x32"], timed=1)
    assert json.loads(path.read_text()) == report and "tiny, 5x64x32: 16 tokens" in capsys.readouterr().out
    large, small = report["rows"]
    assert (large["tokens"], small["tokens"]) == (16, 4)
    assert large["trained"] == small["trained"] == 2 * 16 * (8 * 2 * 128 + 2 * (128 + 256))
    assert all(row["step_seconds"] > 0 and 0 < row["share"] < 2 for row in report["rows"])
    # Of the frozen layers alone: forward twice, and once back to their input; the first block's input needs none.
    width, inner, blocks = 128, MODELS["tiny"].inner, MODELS["tiny"].blocks
    one = 2 * large["tokens"] * (6 * width**2 + 2 * width * inner) * blocks
    assert 2 * one < large["work_tflop"] * 1e12 < 6 * one


def test_every_block_has_the_same_finite_weights():
    model = built(MODELS["tiny"], "cpu", torch.float32)
    first, second = (dict(block.named_parameters()) for block in model.transformer.blocks)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(p.isfinite().all() and not p.requires_grad for p in model.transformer.parameters())


def test_real_models_have_their_size():
    from diffusers import WanTransformer3DModel

    counts = {}
    for name in ("1.3B", "14B"):
        shape = MODELS[name]
        with torch.device("meta"):
            network = WanTransformer3DModel(num_attention_heads=shape.heads, in_channels=36, ffn_dim=shape.inner,
                                            num_layers=shape.blocks, cross_attn_norm=True)  # fmt: skip
        counts[name] = sum(p.numel() for p in network.parameters()) / 1e9
    assert counts["1.3B"] == pytest.approx(1.42, abs=0.01) and counts["14B"] == pytest.approx(14.3, abs=0.1)


def test_what_does_not_fit_is_told_before_it_is_made(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(lora_edit_size, "_free_memory", lambda: 2**30)
    assert command_line(["bench", "lora_edit_size", "--methods", "14B"]) == 1
    assert "methods: the weights take 53" in (told := capsys.readouterr().err) and "GiB, but cpu has 1.0" in told


@pytest.mark.parametrize(("methods", "sizes", "sentence"), [
    (["2B"], None, "^methods: there is no 2B; there are tiny, 1.3B, 14B"),
    (["tiny"], ["49"], "^sizes: expected frames x width x height, such as 49x832x480, but got 49"),
    (["tiny"], ["48x64x64"], "^sizes: 48 frames"),
    (["tiny"], ["5x60x64"], "^sizes: 60x64 pixels"),
])  # fmt: skip
def test_a_wrong_request_is_refused_at_once(methods, sizes, sentence):
    with pytest.raises(ValueError, match=sentence):
        main(methods, None, sizes)
