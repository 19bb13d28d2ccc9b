"""``gpu --tiny``: the pieces run, leave their results, go on, and say why they could not run."""

from __future__ import annotations

import json
import subprocess
import zipfile
from pathlib import Path

import pytest
from steadyedit.benchmarks.kernels import run as kernels
from steadyedit.benchmarks.lora_edit import run as lora_edit
from steadyedit.benchmarks.via import report as via_report
from steadyedit.benchmarks.via import run as via
from steadyedit.standalone import cli
from steadyedit.standalone.gpu import command, host, measures
from steadyedit.standalone.gpu.pieces import Compared, NotRun, Outcome, Piece, Run

MEASURED = ["kernels_fp16", "kernels_bf16", "ei2", "lora_edit_14B", "lora_edit_1.3B", "via"]
TOLD = ["tests", "toy_ei2", "toy_dape", "toy_via", "toy_lora_edit"]
HOSTS = ["host", "lora_edit_host"]


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """What is slowest to import comes once, for all pieces."""
    folder = tmp_path_factory.mktemp("gpu")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("COMFYUI_PATH", str(folder / "none"))
        # Fewer turns and frames than on a GPU: that the pieces run is what is seen.
        patched.setattr(kernels, "MOST_ROUNDS", 2)
        for module in (via, via_report):
            patched.setattr(module, "FRAMES", 4)
        patched.setattr(lora_edit, "FRAMES", 5)
        return folder, command.main(folder, tiny=True, only=[*MEASURED, *TOLD, *HOSTS], apart=False)


def test_pieces_measure_and_the_rest_is_said(rehearsed):
    folder, report = rehearsed
    rows = {row["name"]: row for row in report["pieces"]}
    done = [*MEASURED, *TOLD]
    assert {name: rows[name].get("because") for name in done} == dict.fromkeys(done)
    assert all(rows[name]["status"] == "done" for name in done) and all(rows[name]["compared"] for name in MEASURED)
    assert rows["tests"]["numbers"] == {"passed": 1}
    assert all("holds no ComfyUI" in rows[name]["because"] for name in HOSTS)
    assert rows["machine"] == {"name": "machine", "title": rows["machine"]["title"], "status": "not run",
                               "because": "it was not asked for"}  # fmt: skip
    assert json.loads((folder / "gpu.json").read_text()) == json.loads(json.dumps(report))
    page = (folder / "gpu.md").read_text()
    assert "A rehearsal on the CPU" in page and "| EI2 at the paper's size | done |" in page
    assert "a step | " in page and "frames/s" in page and "share of SDPA's best rate | " in page


def test_a_whole_toy_table_has_the_published_steps():
    asked = {name: measures._whole(name) for name in ("ei2", "dape", "via")}
    assert asked == {"ei2": {"clips": 24, "steps": 1.0}, "dape": {"clips": 24, "steps": 1.0}, "via": {"clips": 24}}


def test_frames_a_second_of_via_have_a_prediction():
    """Ten steps, each of so much work, at 45 % of the device's rate."""
    assert all(measures._predicted(f"via {frames} frames", "bfloat16", False)["work_tflop"] for frames in (64, 256))


def test_training_in_a_host_is_told_from_its_numbers(tmp_path, monkeypatch):
    """The host's Python writes them; which one that is, and whether it can, is not this test's."""
    row = {"peak_gib": 15.0, "told_gib": 14.5, "taken_gib": 16.5, "ran_out": 0, "step_seconds": 9.0}

    def run(command, env, **how):
        assert command[2:4] == ["bench", "lora_edit_host"] and env["COMFYUI_PATH"] == str(tmp_path)
        Path(command[5]).write_text(json.dumps({"rows": [row]}))
        return subprocess.CompletedProcess(command, 0)

    (tmp_path / "main.py").touch()
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    monkeypatch.setattr(host.subprocess, "run", run)
    outcome = host.lora_edit(Run(False, tmp_path))
    assert [one.met for one in outcome.compared] == [True, False, True, None]


def test_what_has_its_result_is_not_run_again(rehearsed, monkeypatch):
    folder, report = rehearsed
    monkeypatch.setattr(command, "run_piece", lambda *args: pytest.fail("it ran again"))
    again = command.main(folder, tiny=True, only=[*MEASURED, *TOLD], apart=False)
    known, found = ([row for row in json.loads(json.dumps(one))["pieces"] if row["status"] == "done"]
                    for one in (report, again))  # fmt: skip
    assert found == known


def test_a_rehearsal_and_a_gpu_have_folders_of_their_own(rehearsed, monkeypatch):
    monkeypatch.setattr(command, "_has_cuda", lambda: True)
    with pytest.raises(ValueError, match="^output: .* holds results of a rehearsal"):
        command.main(rehearsed[0])


def test_each_piece_has_a_process_of_its_own(tmp_path):
    """The real command, on the piece that needs least."""
    assert cli.main(["gpu", "--tiny", "--only", "machine", "--output", str(tmp_path / "out")]) == 0
    rows = {row["name"]: row for row in json.loads((tmp_path / "out" / "gpu.json").read_text())["pieces"]}
    assert rows["machine"]["numbers"]["matrix_tflops"]["float32"] > 0


def _one(monkeypatch, work):
    monkeypatch.setattr(command, "PIECES", (Piece("one", "One", work),))


def test_one_that_fails_does_not_end_the_rest(tmp_path, monkeypatch, capsys):
    def work(where):
        raise RuntimeError("it broke | here")

    _one(monkeypatch, work)
    report = command.main(tmp_path, tiny=True, apart=False)
    assert report["pieces"][0]["status"] == "failed" and "RuntimeError: it broke" in capsys.readouterr().out
    assert "failed, because RuntimeError: it broke \\| here" in (tmp_path / "gpu.md").read_text()
    _one(monkeypatch, lambda where: Outcome({"a": 1}))
    assert command.main(tmp_path, tiny=True, apart=False)["pieces"][0]["numbers"] == {"a": 1}


def test_what_is_missing_is_said():
    with pytest.raises(NotRun, match="^no_such_module is not installed; bring wheels"):
        Piece("one", "One", Outcome, ("os", "no_such_module")).run(None)


def test_no_time_is_said(tmp_path, monkeypatch):
    _one(monkeypatch, lambda where: pytest.fail("it ran"))
    monkeypatch.setattr(command, "_has_cuda", lambda: True)
    report = command.main(tmp_path, minutes=0.1, apart=False)
    assert report["pieces"][0]["because"] == "no time was left; the same command goes on"


def test_wheels_are_put_on_the_path_without_a_download(tmp_path):
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "brought-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("brought.py", "HERE = True\n")
        wheel.writestr("brought-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: brought\nVersion: 1.0\n")
        wheel.writestr("brought-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\n"
                                                      "Tag: py3-none-any\n")  # fmt: skip
        wheel.writestr("brought-1.0.dist-info/RECORD", "")
    target = command._unpacked(folder, tmp_path / "on_path")
    assert (target / "brought.py").read_text() == "HERE = True\n"
    with pytest.raises(ValueError, match="^wheels: .* holds no .*whl"):
        command._unpacked(tmp_path / "none", tmp_path / "other")


@pytest.mark.parametrize(("higher", "measured", "met"), [(False, 1.0, True), (False, 1.2, False), (True, 1.2, True)])
def test_a_goal_is_met_or_not(higher, measured, met):
    assert Compared("x", "s", measured, goal=1.1, higher=higher).met is met
    assert Compared("x", "s", measured).met is None


@pytest.mark.parametrize(("asked", "sentence"), [
    (["gpu"], "gpu: no CUDA device was found; `gpu --tiny` rehearses"),
    (["gpu", "--tiny", "--only", "x"], "only: there is no x; there are machine,"),
    (["gpu", "--tiny", "--minutes", "0"], "minutes: expected a number above 0, but got 0.0"),
])  # fmt: skip
def test_a_wrong_request_is_one_sentence(asked, sentence, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(command, "_has_cuda", lambda: False)
    assert cli.main([*asked, "--output", str(tmp_path)]) == 1
    assert sentence in capsys.readouterr().err
