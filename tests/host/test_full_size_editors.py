"""Memory and work of gather-swap on FLUX.1 and Qwen-Image at full width, in fake tensors."""

from __future__ import annotations

import json
import os

import pytest
from full_size_editors import FRAMES, GIB, GROUP, TEXTS, WIDTHS, step

pytestmark = pytest.mark.once
whole = pytest.mark.skipif(not os.environ.get("FULL_SIZE"), reason="minutes; FULL_SIZE=1 runs it")
FEW = {"qwen": (1,), "flux": (1, 1)}
WIDTH = 3072


@pytest.mark.parametrize("kind", ["qwen", "flux"])
def test_the_groups_keys_are_all_that_grows_with_the_blocks(kind):
    """Not with the clip, and not with the frames in a call."""
    one, two = (step(kind, 256, 2, 2, blocks=tuple(n * times for n in FEW[kind])) for times in (1, 2))
    keys = 2 * 2 * GROUP * (256 // 16) ** 2 * WIDTH * 2
    assert one.keys == sum(FEW[kind]) * keys and two.keys == 2 * one.keys
    assert two.beside - one.beside == pytest.approx(two.keys - one.keys, rel=0.02)
    longer = step(kind, 256, 2, 2, frames=2 * FRAMES, blocks=FEW[kind])
    # The clip's own latents, references and texts.
    clip = 4 * FRAMES * (4 * 16 * 32 * 32 + (2 * TEXTS[kind] * WIDTHS[kind] if kind == "qwen" else 0))
    assert longer.beside - one.beside == pytest.approx(clip, rel=0.05)
    calls = FRAMES / 2
    assert longer.flops - one.flops == pytest.approx(one.flops * calls / (calls + 2), rel=0.1)


#: Branches of guidance: Qwen-Image-Edit's, its Lightning LoRA's, and FLUX Kontext's, which is distilled.
@whole
@pytest.mark.parametrize("kind, branches", [("qwen", 2), ("qwen", 1), ("flux", 1)])
@pytest.mark.parametrize("side", [512, 1024])
@pytest.mark.parametrize("rows", [1, 4, 16])
def test_the_table(kind, branches, side, rows):
    """What docs/memory.md and benchmarks/results/full_size.json have; ``-s`` prints it."""
    found = step(kind, side, rows, branches)
    print(json.dumps({
        "method": f"gather-swap {kind}", "size": f"{FRAMES}x{side}x{side}", "dtype": "bfloat16", "branches": branches,
        "rows": rows, "group": GROUP, "fake_gib": found.beside / GIB, "keys_gib": found.keys / GIB,
        "parameters": found.weights, "work_tflop": found.flops / 1e12}))  # fmt: skip
    assert found.beside > found.keys > 0
