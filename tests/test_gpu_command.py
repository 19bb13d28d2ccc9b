"""``gpu --tiny``: the pieces run, leave their results, go on, and say why they could not run."""

from __future__ import annotations

import json
import zipfile

import pytest
from steadyedit.standalone import cli
from steadyedit.standalone.gpu import command
from steadyedit.standalone.gpu.pieces import Compared, NotRun, Outcome, Piece

MEASURED = ["kernels_bf16", "ei2", "lora_edit_14B", "via"]


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """What is slowest to import comes once, for all pieces."""
    folder = tmp_path_factory.mktemp("gpu")
    return folder, command.main(folder, tiny=True, only=MEASURED, apart=False)


def test_pieces_measure_and_the_rest_is_said(rehearsed):
    folder, report = rehearsed
    rows = {row["name"]: row for row in report["pieces"]}
    assert {name: rows[name].get("because") for name in MEASURED} == dict.fromkeys(MEASURED)
    assert all(rows[name]["status"] == "done" and rows[name]["compared"] for name in MEASURED)
    assert rows["host"] == {"name": "host", "title": rows["host"]["title"], "status": "not run",
                            "because": "it was not asked for"}  # fmt: skip
    assert json.loads((folder / "gpu.json").read_text()) == report
    page = (folder / "gpu.md").read_text()
    assert "A rehearsal on the CPU" in page and "| EI2 at the paper's size | done |" in page
    assert "a step | " in page and "frames/s" in page


def test_what_has_its_result_is_not_run_again(rehearsed, monkeypatch):
    folder, report = rehearsed
    monkeypatch.setattr(command, "run_piece", lambda *args: pytest.fail("it ran again"))
    again = command.main(folder, tiny=True, only=MEASURED, apart=False)
    assert again["pieces"] == report["pieces"]


def test_a_rehearsal_and_a_gpu_have_folders_of_their_own(rehearsed, monkeypatch):
    monkeypatch.setattr(command, "_has_cuda", lambda: True)
    with pytest.raises(ValueError, match="^output: .* holds results of a rehearsal"):
        command.main(rehearsed[0])


def test_each_piece_has_a_process_of_its_own(tmp_path, monkeypatch):
    """The real command, on the two pieces that need least."""
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "none"))
    assert cli.main(["gpu", "--tiny", "--only", "machine,host", "--output", str(tmp_path / "out")]) == 0
    rows = {row["name"]: row for row in json.loads((tmp_path / "out" / "gpu.json").read_text())["pieces"]}
    assert rows["machine"]["numbers"]["matrix_tflops"]["float32"] > 0
    assert rows["host"]["status"] == "not run" and "holds no ComfyUI" in rows["host"]["because"]


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
