"""The kernels' benchmark: checked before measured, every rival beside every other, honest about what it left out."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from steadyedit.benchmarks.common.memory import allocated_peak
from steadyedit.benchmarks.kernels import run as kernels
from steadyedit.benchmarks.kernels.contests import Size, attend, fine_coarse_flex
from steadyedit.kernels.frame_attention import frame_attention_reference


def test_kernels_are_checked_then_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(kernels, "MOST_ROUNDS", 2)
    path = tmp_path / "kernels.json"
    kernels.main(json_path=path, sizes=["4x16", "5x16", "6x16"])
    report = json.loads(path.read_text())
    assert set(report["meta"]) >= {"seed", "clips", "versions", "device", "commit", "clock", "memory"}
    keys = {f"{key}{end}" for key in kernels.KEYS for end in ("", "_ci")}
    keys |= {"method", "operation", "size", "rival", "backend", "baseline"}
    assert all(set(row) == keys for row in report["rows"])
    assert [row["operation"] for row in report["rows"][::3]] == list(kernels.OPERATIONS) * 3
    for row in report["rows"]:
        assert row["forward_ms"] > 0 and row["ratio"] > 0 and row["peak_mb"] >= 0
        assert (row["train_ms"] or 0) > 0 or row["operation"] == "propagation"
        baseline = row["rival"] in ("sdpa", "norm", "products")
        assert (row["error"] is None) == baseline
        assert not baseline or (row["ratio"] == 1 and row["train_ratio"] in (1, None))
    assert set(report["meta"]["memory"]) == {f"{name}, 16 tokens" for name in kernels.OPERATIONS}
    assert "| ffam-2 4x16 ours |" in capsys.readouterr().out


def test_no_number_without_a_green_check(monkeypatch, tmp_path):
    wrong = lambda q, k, v, *rest: frame_attention_reference(q, k, v, *rest) * 1.001  # noqa: E731
    monkeypatch.setattr("steadyedit.kernels.frame_attention.frame_attention", wrong)
    with pytest.raises(RuntimeError, match="ffam-2 ours differs from its reference by 1.0e-03 at 4x16"):
        kernels.main(["ffam-2"], tmp_path / "kernels.json", ["4x16"])
    assert not list(tmp_path.iterdir())


def test_a_cpu_waits_for_no_giant(monkeypatch):
    monkeypatch.setattr(kernels, "FORWARD_LIMIT", 0)
    monkeypatch.setattr(kernels, "TRAIN_LIMIT", 0)
    rows_ = kernels.main(["swap"], sizes=["4x16"])["rows"]
    assert all(row["forward_ms"] is row["train_ms"] is row["peak_mb"] is row["ratio"] is None for row in rows_)


@pytest.mark.parametrize(
    ("methods", "sizes", "sentence"),
    [
        (["ffam-3"], None, "^methods: there is no ffam-3; there are ffam-2"),
        (None, ["8"], "^sizes: expected FRAMESxTOKENS such as 8x1024, but got '8'"),
        (None, ["8x17"], "^sizes: '8x17' needs at least 4 frames, and a square"),
    ],
)
def test_a_wrong_kernel_or_size_is_refused(methods, sizes, sentence):
    with pytest.raises(ValueError, match=sentence):
        kernels.main(methods, sizes=sizes)


def test_the_fastest_backend_is_among_those_that_run():
    inputs = tuple(torch.randn(2, 16, 8) for _ in range(3))
    run = partial(attend, heads=2)
    backend = kernels.fastest_backend(run, inputs)
    assert backend.name in ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "MATH")
    torch.testing.assert_close(kernels.by_backend(backend, run)(*inputs), run(*inputs))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_rival_equals_the_reference():
    """Its mask and its layout, uncompiled: a compiler belongs to the machine with the GPU."""
    size = Size(4, 16, 2, 8)
    q, k, v = (torch.randn(4, 16, 16) for _ in range(3))
    found = fine_coarse_flex(size, 2, 4, torch.device("cpu"), compiler=lambda run: run)(q, k, v)
    torch.testing.assert_close(found, frame_attention_reference(q, k, v, 2, 4, 4, 4, 2))


def test_allocated_peak_is_exact():
    def run():
        first = torch.zeros(1000)
        second = first + 1
        del first
        return second[:10].clone()

    result, peak = allocated_peak(run)
    assert result.sum() == 10 and peak == pytest.approx(8000 / 2**20, rel=0.1)
