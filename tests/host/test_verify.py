"""``verify`` whole: a shipped graph on narrow random weights in a ComfyUI of its own, and the folder that it leaves."""

from __future__ import annotations

import json

import pytest
from conftest import HOST
from PIL import Image
from steadyedit.standalone import cli
from steadyedit.standalone.graph import read_graph
from steadyedit.standalone.rehearsal.files import models_folder, write_models
from steadyedit.standalone.verify.prepare import resolved


@pytest.mark.once
def test_a_folder_to_share_comes_from_a_real_host(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("COMFYUI_PATH", str(HOST))
    models, graph = models_folder(tmp_path / "models", HOST / "models"), read_graph("ei2")
    graph["7"]["inputs"]["switch"] = True
    write_models(resolved(graph), models)
    small = ("Its frames.count=3", "Its frames.size=64", "Tune on the clip.steps=1", "Invert the clip.steps=2")
    changes = [part for text in small for part in ("--set", text)]
    code = cli.main(["verify", "ei2", "--models", str(models), *changes, "--output", str(tmp_path / "out")])
    assert code == 0, capfd.readouterr().err
    report = json.loads((tmp_path / "out" / "verify.json").read_text())
    assert report["because"] is None and report["size"] == [3, 64, 64] and report["own_clip"]
    took = {node["class"]: node for node in report["nodes"]}
    assert took["SteadyEditOneShotTune"]["seconds"] > 0.05 < took["SamplerCustom"]["seconds"]
    assert all(node["title"] != "a node of another one" for node in report["nodes"])
    assert {"Warping Error", "Interpolation PSNR (flow)"} <= report["metrics"].keys()
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.width > 3 * 224
    shared = (tmp_path / "out" / "verify.json").read_text() + (tmp_path / "out" / "verify.md").read_text()
    assert str(tmp_path) not in shared and str(HOST) not in shared
