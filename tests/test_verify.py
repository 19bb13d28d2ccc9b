"""``verify``: what is made of a graph, what is said where files are missing, and that nothing personal is shared."""

from __future__ import annotations

import getpass
import json
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from steadyedit.standalone import cli
from steadyedit.standalone.graph import GraphError, check_links, read_graph, shipped
from steadyedit.standalone.rehearsal.files import wanted
from steadyedit.standalone.verify import predicted, prepare, run
from steadyedit.standalone.verify.privacy import Cleaner

METER = {"device": {"kind": "cpu", "matrix_tflops": {"float32": 0.1, "bfloat16": 0.1}}, "nodes": [
    {"node": "12", "seconds": 1.0, "processor_seconds": 1.0, "device_gib": None, "device_in_use_gib": None,
     "process_gib": 2.0}]}  # fmt: skip
STATS = {"system": {"comfyui_version": "0.33.0", "python_version": "3.11.7 (main)", "pytorch_version": "2.11",
                    "os": "linux", "ram_total": 2**34, "argv": ["/home/jane/main.py"]},
         "devices": [{"name": "a card", "vram_total": 2**34}]}  # fmt: skip


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_graph_can_be_verified(name, tmp_path):
    graph = prepare.resolved(read_graph(name))
    prepared = prepare.measuring(graph, tmp_path, "clip_vision_h.safetensors")
    check_links(graph)
    classes = [node["class_type"] for node in graph.values()]
    assert prepared.graph[prepared.metrics]["class_type"] == "SteadyEditClipMetrics"
    assert not {"ComfySwitchNode", "SaveLoRA", "SteadyEditSaveTuned"} & set(classes)
    assert not any(node["inputs"].get("reuse") for node in graph.values())


def test_a_switch_leaves_what_it_turns_on():
    graph = read_graph("ei2")
    graph["7"]["inputs"]["switch"] = True
    small = prepare.resolved(graph)
    assert "5" not in small and small["9"]["inputs"]["text"] == ["6", 0]
    graph["7"]["inputs"]["switch"] = False
    assert prepare.resolved(graph)["9"]["inputs"]["text"] == ["5", 0]


def test_our_own_clip_brings_its_words_and_its_edited_frame(tmp_path, monkeypatch):
    monkeypatch.setitem(prepare.OWN, "size", 64)
    graph = read_graph("lora_edit_wan")
    graph["2"]["inputs"]["count"] = 2
    prepare.put_own_clip(graph, tmp_path)
    small = prepare.resolved(graph)
    assert Path(small["1"]["inputs"]["file"]).is_file() and Path(small["31"]["inputs"]["image"]).is_file()
    assert small["33"]["inputs"]["images"] == ["31", 0] and small["8"]["inputs"]["text"] == "fish"
    assert not [one for one in wanted(small) if "qwen" in one.name.lower() or "Florence" in one.name]


def test_missing_files_are_named_with_where_to_get_them(tmp_path):
    graph = prepare.resolved(read_graph("via_global"))
    with pytest.raises(GraphError, match="lacks checkpoints/instruct-pix2pix-00-22000.safetensors .https://"):
        prepare.check_models(graph, tmp_path)
    with pytest.raises(GraphError, match="there is no such folder"):
        prepare.check_models(graph, tmp_path / "none")
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "a.safetensors").touch()
    prepare.check_models({"1": {"class_type": "UNETLoader", "inputs": {"unet_name": "a.safetensors"}}}, tmp_path)


@pytest.mark.parametrize(("said", "left"), [
    ("no file /home/jane/My_clip.mp4 there", "no file (path) there"),
    ("at C:\\Users\\jane\\models\\a.safetensors: bad", "at (path): bad"),
    ("open '~/models/x' failed", "open '(path)' failed"),
    (f"{getpass.getuser()} may not", "(left out) may not" if len(getpass.getuser()) > 3 else None),
    ("of holiday.mp4, jane@host.org", "of (left out), (left out)"),
    ("8 frames/s, and/or 4x16: 1/2 of it", "8 frames/s, and/or 4x16: 1/2 of it"),
])  # fmt: skip
def test_what_is_shared_names_nobody(said, left):
    if left is not None:
        assert Cleaner(["holiday.mp4"]).value({"a": [said]}) == {"a": [left]}


def test_predictions_stand_beside_nodes_of_the_same_size_alone():
    graph = prepare.resolved(read_graph("ei2"))
    device = {"kind": "cuda", "matrix_tflops": {"float32": 50.0, "bfloat16": 800.0}}
    found = predicted.predicted(graph, (8, 512, 512), device)
    work = predicted.predictions()["ei2 tuning", "bfloat16"]["work_tflop"]
    assert found["14"].seconds == pytest.approx(500 * work / (0.45 * 800)) and 5 < found["14"].gib < 8
    assert found["18"].seconds == pytest.approx(2 * found["16"].seconds)
    assert predicted.predicted(graph, (16, 512, 512), device) == {}


class StandIn:
    """In the place of a host, to see what is written when a node fails or all went well."""

    def __init__(self, folder):
        self.input = folder

    def ask(self, path):
        return {"/system_stats": STATS, "/steadyedit/meter": METER}[path]


@pytest.fixture
def verify(tmp_path, monkeypatch, capsys):
    @contextmanager
    def running(comfy, output, models, packs):
        assert all((pack / "__init__.py").is_file() for pack in packs)
        yield StandIn(tmp_path)

    (tmp_path / "main.py").touch()
    (tmp_path / "holiday.mp4").write_bytes(b"1")
    (tmp_path / "models" / "checkpoints").mkdir(parents=True)
    (tmp_path / "models" / "checkpoints" / "v1-5-pruned-emaonly.safetensors").touch()
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    monkeypatch.setattr(run, "running", running)
    monkeypatch.setattr(run, "bring_files", lambda graph, host: None)

    def call(send, *more):
        monkeypatch.setattr(run, "send", send)
        code = cli.main(["verify", "ei2", "--video", str(tmp_path / "holiday.mp4"), "--output", str(tmp_path / "out"),
                         "--set", "7.switch=true", "--set", "What it should show.text=my secret", *more])  # fmt: skip
        return code, capsys.readouterr(), tmp_path / "out"

    return call


def test_a_graph_that_stops_is_reported_without_its_secrets(verify, tmp_path):
    def send(graph, host):
        raise GraphError(f'node 12 "STAM": no room for {tmp_path / "holiday.mp4"} in my clip holiday.mp4')

    code, said, out = verify(send)
    shared = (out / "verify.json").read_text() + (out / "verify.md").read_text()
    assert code == 1 and 'node 12 "STAM": no room for' in said.err and "It stopped: node 12" in shared
    assert not (out / "sheet.png").exists()
    for secret in ("holiday", "my secret", "jane", str(tmp_path), str(Path.home())):
        assert secret not in shared
    assert json.loads((out / "verify.json").read_text())["changed"] == {
        "Your own words instead of the caption?.switch": True, "What it should show.text": "(a text)"}


def test_a_graph_that_ran_is_told_by_numbers_and_a_sheet(verify):
    from safetensors.torch import save_file

    def send(graph, host):
        clips = {name: torch.rand(2, 32, 48, 3) for name in ("before", "after")}
        save_file({**clips, "size": torch.tensor([8, 512, 512])}, graph["verify:frames"]["inputs"]["path"])
        return {"outputs": {"21": {"text": ["CLIP-Frame: 0.9500 (in papers 95.00)\nInterpolation PSNR: 20.10 dB"]}}}

    code, said, out = verify(send)
    report = json.loads((out / "verify.json").read_text())
    assert code == 0 and report["because"] is None and (out / "sheet.png").read_bytes()[:4] == b"\x89PNG"
    assert report["metrics"] == {"CLIP-Frame": 0.95, "Interpolation PSNR": 20.1}
    assert report["nodes"][0]["title"] == "STAM" and "Look at these files" in said.out
    assert report["models"] == {"v1-5-pruned-emaonly.safetensors": 0.0} and report["host"]["device"] == "a card"


def test_a_graph_of_one_s_own_is_refused(verify, capsys):
    assert cli.main(["verify", "mine.json"]) == 1
    assert "there is no shipped graph 'mine.json'; there are dape" in capsys.readouterr().err
