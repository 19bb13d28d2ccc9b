"""The bench of approximate windows on untrained toy models: joins, rows and files."""

from __future__ import annotations

import pytest
import torch
from steadyedit.benchmarks.common.cases import World, quiet_backend
from steadyedit.benchmarks.windows.run import KEYS, WINDOWS, Windowed, joins_of, main
from steadyedit.methods.tune_recipe import TuneRecipe


@pytest.fixture(scope="module")
def world():
    """Random weights, true shapes."""
    from steadyedit.backends.diffusers import DiffusersModel
    from steadyedit.backends.diffusers.encoders import Autoencoder, TextEncoder
    from steadyedit.toyworld import models

    torch.manual_seed(0)
    built = {name: models.BUILDERS[name]().eval() for name in ("classifier", "clip", "text_encoder", "unet", "vae")}
    for module in built.values():
        module.requires_grad_(False)
    text = TextEncoder(built["text_encoder"], models.tokenize)
    return World(quiet_backend(), DiffusersModel(built["unet"]), text, Autoencoder(built["vae"]), built["classifier"],
                 built["clip"])  # fmt: skip


def test_joins_are_where_another_window_leads():
    assert joins_of(48, 8, 0) == [7, 15, 23, 31, 39] and joins_of(8, 8, 0) == []
    assert joins_of(14, 8, 2) == [6] and len(joins_of(48, 8, 2)) == 7


def test_all_methods_give_rows_and_a_second_run_finds_them(world, tmp_path, capsys):
    quick = Windowed(recipe=TuneRecipe(steps=1, learning_rate=1e-4), steps=1, length=2, overlap=1)
    run = {"json_path": tmp_path / "w.json", "settings": quick, "world": world, "frames": 4, "size": 32}
    report = main(1, **run)
    assert [row["method"] for row in report["rows"]] == list(WINDOWS) and set(KEYS) < set(report["rows"][0])
    assert all(row["flicker_joins"] is not None and row["psnr_truth"] > 0 for row in report["rows"])
    shown = capsys.readouterr().out
    assert main(1, **run)["clips"] == report["clips"] and "at joins\n" not in capsys.readouterr().out.split("|")[0]
    assert "windows of 2" in shown
    with pytest.raises(ValueError, match="methods: there is no last"):
        main(1, ["last"], **run)


@pytest.mark.parametrize("base", ["tune-a-video-per-frame", "tokenflow"])
def test_other_bases_by_name(world, base):
    quick = Windowed(recipe=TuneRecipe(steps=1, learning_rate=1e-4), steps=1, length=2, overlap=1)
    methods = [f"{base}-whole", f"{base}-first"]
    report = main(1, methods, settings=quick, world=world, frames=4, size=32)
    assert [row["method"] for row in report["rows"]] == methods
