"""Full-size training in fake tensors: what it counts, and that what is told before a training agrees."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from steadyedit.benchmarks.common.live import LiveStorages, fake
from steadyedit.benchmarks.common.memory import allocated_peak
from steadyedit.benchmarks.full_size import run, unet
from steadyedit.benchmarks.full_size.run import adapter, fake_step, main, norms
from steadyedit.benchmarks.full_size.unet import fake_sampling, fake_tuning
from steadyedit.benchmarks.lora_edit_size.run import MODELS
from steadyedit.methods.dape.recipes import ADAPTER_TUNING
from steadyedit.methods.lora_edit.choices import TARGETS
from steadyedit.methods.via.pipeline import ViaRecipe
from steadyedit.standalone.cli import main as command_line

VIDEO = (1, 16, 13, 60, 104)


def work(x):
    y = x @ x
    y = y + x
    return (y.softmax(-1) * y).sum()


def test_the_peak_is_that_of_real_allocations():
    x = torch.zeros(64, 64)
    _, real = allocated_peak(lambda: work(x))
    with fake():
        x = torch.zeros(64, 64)
        with LiveStorages([x], noted=True) as live:
            work(x)
    assert live.peak == pytest.approx(real * 2**20, abs=64)
    assert sum(held.bytes for held in live.at_peak()) == pytest.approx(live.peak, rel=0.01)
    assert live.swept() == 0


def test_what_is_elsewhere_is_not_counted():
    with fake(), LiveStorages() as live:
        kept = live.elsewhere(torch.zeros(1024))
        assert live.swept() == 0 and kept.shape == (1024,)


# Of two sizes, two dtypes and two sets of layers every pair once: what is told is a sum of them.
@pytest.mark.parametrize(("name", "dtype", "targets"), [
    ("1.3B", torch.bfloat16, TARGETS[0]), ("1.3B", torch.float32, TARGETS[1]),
    ("14B", torch.bfloat16, TARGETS[1]), ("14B", torch.float32, TARGETS[0])], ids=str)  # fmt: skip
def test_what_is_told_agrees_at_full_width(name, dtype, targets):
    """Two blocks of the true width: the others add their input each, and nothing else."""
    found = fake_step(replace(MODELS[name], blocks=2), VIDEO, dtype, targets=targets)
    assert found.tokens == 20280 and abs(found.off) < 0.03, str(found)


@pytest.mark.parametrize(("name", "dtype", "targets"), [
    ("1.3B", torch.float32, TARGETS[0]), ("14B", torch.bfloat16, TARGETS[0]), ("14B", torch.float32, TARGETS[1])],
    ids=str)  # fmt: skip
def test_what_blocks_keep_that_are_not_computed_again_is_told(name, targets, dtype):
    found = fake_step(replace(MODELS[name], blocks=4), VIDEO, dtype, targets=targets, whole=4)
    assert abs(found.off) < 0.03, str(found)


def test_inputs_that_wait_in_the_main_memory_are_off_the_device():
    found = fake_step(replace(MODELS["1.3B"], blocks=5), VIDEO, torch.bfloat16, offloaded=4)
    assert abs(found.off) < 0.03, str(found)


def test_every_block_adds_its_input():
    few, more = (fake_step(replace(MODELS["tiny"], blocks=count), VIDEO, torch.float32, targets="attention only")
                 for count in (2, 4))  # fmt: skip
    # A LoRA of rank 16 on 8 projections a block, float32, with gradient and moments, grows beside it.
    assert more.peak - few.peak == pytest.approx(2 * 20280 * 128 * 4, rel=0.05)


def test_the_command_writes_its_numbers(tmp_path, capsys):
    path = tmp_path / "full.json"
    assert command_line(["bench", "full_size", "--methods", "tiny", "--sizes", "5x64x64", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    assert [row["dtype"] for row in rows] == ["bfloat16", "float32"] and all(row["fake_gib"] > 0 for row in rows)
    assert "tiny, 5x64x64, bfloat16: 32 tokens" in capsys.readouterr().out


def test_a_step_of_via_grows_by_its_latents_alone():
    """Calls of the U-Net have their size; work is that of the clip's frames and of the group's four."""
    recipe = ViaRecipe(adaptation=None, blend=None)
    few, more = (fake_sampling(unet.TINY_PIX2PIX, (frames, 4, 16, 16), torch.bfloat16, recipe) for frames in (16, 32))
    latent = 16 * 4 * 16 * 16 * 4
    # x, noise, the clip beside it, three branches' results and what is made of them.
    assert 0 < more.peak - few.peak < 16 * latent
    by_frame = (more.flops - few.flops) / 16
    assert few.flops == pytest.approx(16 * by_frame + 4 * by_frame, rel=0.1)


def test_a_frozen_stage_is_at_work_and_trains_nothing():
    shape, latent, dtype = unet.TINY, (2, 4, 16, 16), torch.bfloat16
    alone = fake_tuning(shape, adapter, latent, dtype, ADAPTER_TUNING)
    over = fake_tuning(shape, adapter, latent, dtype, ADAPTER_TUNING, norms)
    assert over.weights == alone.weights and over.flops >= alone.flops > 0
    assert set(run.U_NETS) >= {"dape norms", "dape adapter", "sdxl tuning", "via 1440 frames"}


def test_sdxl_has_its_size():
    with fake():
        network = unet.built_unet(unet.SDXL)
    assert round(sum(weight.numel() for weight in network.parameters()) / 1e6) == 2567


def test_an_unknown_model_is_named():
    with pytest.raises(ValueError, match="^methods: there is no 2B; there are tiny"):
        main(["2B"])
