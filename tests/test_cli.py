"""The command line: what is asked for reaches what runs, and every mistake is one sentence and exit code 1."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from steadyedit.standalone import cli, comfy_process
from steadyedit.standalone.graph import GraphError

GRAPH = {
    "1": {"class_type": "LoadVideo", "inputs": {"file": "x.mp4"}, "_meta": {"title": "Clip"}},
    "2": {"class_type": "SaveVideo",
          "inputs": {"video": ["1", 0], "filename_prefix": "a/b", "format": "mp4", "codec": "h264"}},
}  # fmt: skip


@pytest.fixture
def graph(tmp_path):
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(GRAPH))
    return path


@pytest.fixture
def clip(tmp_path):
    import torch
    from steadyedit.video.write import write_clip

    return write_clip(tmp_path / "clip.mp4", torch.rand(3, 32, 32, 3), 10)


def test_runs_a_graph_on_a_file(graph, clip, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--video", str(clip), "--output", str(out), "--set", "2.filename_prefix=c"]
    assert cli.main(["run", str(graph), *arguments]) == 0
    assert capsys.readouterr().out.strip() == str(out / "c_00001_.mp4") and (out / "c_00001_.mp4").stat().st_size


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["--set", "Clip.fil=3"], "node 1 \"Clip\" has no input 'fil'; it has file"),
    (["--set", "Clop.file=3"], "no node is called 'Clop'"),
    (["--set", "nonsense"], "expected NODE.INPUT=VALUE"),
    (["--video", "missing.mp4"], "missing.mp4: there is no such file"),
    ([], 'node 1 "Clip": file: \'x.mp4\' is not here'),
])  # fmt: skip
def test_mistakes(graph, tmp_path, capsys, arguments, sentence):
    assert cli.main(["run", str(graph), "--host", "standalone", "--output", str(tmp_path), *arguments]) == 1
    said = capsys.readouterr().err.strip()
    assert sentence in said and said.startswith("steadyedit: ") and "\n" not in said


def test_a_broken_file_and_a_file_without_video(graph, tmp_path, capsys):
    for name, content in (("cut.mp4", b"\0\0\0\x18ftypmp42 not more"), ("notes.mp4", b"just text")):
        (tmp_path / name).write_bytes(content)
        assert cli.main(["run", str(graph), "--video", str(tmp_path / name), "--output", str(tmp_path)]) == 1
        assert name in capsys.readouterr().err


def test_auto_asks_for_a_host_only_where_it_must(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(comfy_process, "find_comfy", lambda: None)
    path = tmp_path / "graph.json"
    path.write_text(json.dumps({"1": {"class_type": "CheckpointLoaderSimple", "inputs": {}}}))
    assert cli.main(["run", str(path)]) == 1
    assert "needs a ComfyUI, and none was found: set COMFYUI_PATH" in capsys.readouterr().err


def test_unknown_benchmark(capsys):
    assert cli.main(["bench", "none"]) == 1
    assert "there is no 'none'" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["ei2", "--sizes", "8x64"], "bench ei2: --sizes is not an option of this one"),
    (["kernels", "--clips", "2"], "bench kernels: --clips is not an option of this one"),
    (["ei2", "--workers", "0"], "workers: at least 1 is needed, but got 0"),
])  # fmt: skip
def test_options_of_benchmarks(capsys, arguments, sentence):
    assert cli.main(["bench", *arguments]) == 1
    assert sentence in capsys.readouterr().err


def test_workers_run_the_same_command(monkeypatch):
    from steadyedit.benchmarks.common import shards

    called = []
    monkeypatch.setattr(shards.subprocess, "call", lambda command, env: called.append((command, env)) or 3)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    arguments = ["bench", "ei2", "--clips", "2", "--json", "x.json", "--workers", "2"]
    assert cli.main(arguments) == 3
    (command, environment), = called
    assert command[1:4] == ["-m", "torch.distributed.run", "--standalone"] and "--nproc-per-node=2" in command
    assert command[-len(arguments) - 2:] == ["-m", "steadyedit", *arguments] and environment["OMP_NUM_THREADS"]


def test_unknown_recipe(capsys):
    assert cli.main(["toyworld", "train", "none"]) == 1
    assert "none" in capsys.readouterr().err


def test_a_slower_clip_shows_the_same_later():
    from steadyedit.standalone.render import clip_and_answer

    settings = {"seed": 3, "edit": "colour", "size": 32}
    fast, answer, edit = clip_and_answer(settings | {"frames": 2})
    slow, late, same = clip_and_answer(settings | {"frames": 3, "slower": 2})
    assert same == edit
    for one, other in ((fast, slow), (answer, late)):
        assert (one.frames - other.frames[::2]).abs().max() < 0.01
    assert cli.main(["toyworld", "render", "--slower", "0"]) == 1


def test_renders_a_clip(tmp_path, capsys):
    arguments = ["toyworld", "render", "--seed", "3", "--frames", "2", "--size", "32", "--output", str(tmp_path)]
    assert cli.main(arguments) == 0
    assert len(capsys.readouterr().out.split()) == 3 and len(list(tmp_path.glob("toy_3_colour_*"))) == 3


def test_the_sheet_of_a_long_clip_stays_small(tmp_path, monkeypatch):
    from PIL import Image
    from steadyedit.standalone import render

    monkeypatch.setattr(render, "MOST", 2)
    (*_, sheet) = render.render_files(3, "colour", 5, 32, tmp_path)
    with Image.open(sheet) as picture:  # frames 0 and 3 of 5
        assert 2 * 224 < picture.width - 250 < 3 * 224


def test_help_is_light():
    """Asking for help loads no tensor library, and works from any folder."""
    code = ("import sys, runpy; sys.argv = ['steadyedit', 'run', '--help']\n"
            "try: runpy.run_module('steadyedit', run_name='__main__')\n"
            "except SystemExit as done: assert done.code == 0\n"
            "assert 'torch' not in sys.modules")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=os.path.expanduser("~"))
    assert done.returncode == 0, done.stderr
    assert "--host" in done.stdout


def test_where_a_host_is_looked_for(tmp_path, monkeypatch):
    host = tmp_path / "ComfyUI"
    (host / "custom_nodes" / "steadyedit").mkdir(parents=True)
    (host / "main.py").touch()
    monkeypatch.delenv("COMFYUI_PYTHON", raising=False)
    monkeypatch.setenv("COMFYUI_PATH", str(host))
    assert comfy_process.find_comfy() == host
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(GraphError, match="COMFYUI_PATH: .* holds no ComfyUI"):
        comfy_process.find_comfy()
    monkeypatch.delenv("COMFYUI_PATH")
    monkeypatch.setattr(comfy_process, "PACK", host / "custom_nodes" / "steadyedit")
    assert comfy_process.find_comfy() == host

    assert comfy_process.find_python(host) == sys.executable
    for place in (host / ".venv", host / "venv", tmp_path / "venv"):
        (place / "bin").mkdir(parents=True)
        (place / "bin" / "python").touch()
        assert comfy_process.find_python(host) == str(place / "bin" / "python")
    monkeypatch.setenv("COMFYUI_PYTHON", "special")
    assert comfy_process.find_python(host) == "special"


def test_a_host_that_dies_says_why(tmp_path, monkeypatch):
    host = tmp_path / "ComfyUI"
    host.mkdir()
    (host / "main.py").write_text("print('no module named nothing'); raise SystemExit(3)")
    monkeypatch.setenv("COMFYUI_PYTHON", sys.executable)
    with pytest.raises(GraphError, match="ended while it started.*\n.*no module named nothing"):
        with comfy_process.running(host, tmp_path / "out"):
            pass
