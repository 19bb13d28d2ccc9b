"""A plate through the nodes without a host: frame numbers, alpha and numbers come out as they went in."""

from __future__ import annotations

import sys

import pytest
import torch
from steadyedit.standalone.graph import GraphError
from steadyedit.standalone.run import run_standalone
from steadyedit.video.sequences.names import found, output_paths
from steadyedit.video.sequences.read import LINEAR, read_sequence
from steadyedit.video.sequences.write import write_sequence

pytestmark = pytest.mark.skipif("comfy_api" in sys.modules, reason="a host is loaded in this process")


def graph(plate, /, **save):
    load = {"name": plate, "first": 1003, "count": 4, "step": 1, "handles": 2, "handling": "add",
            "missing": "stop with an error", "files": "by its kind", "images": "linear", "unpremultiply": False,
            "clip": False, "fps": 23.98}  # fmt: skip
    kept = {"name": "out/comp_####", "format": "EXR float", "step": 1, "handles": 2, "images_are": "linear",
            "files": "by its kind", "premultiply": False, "existing": "new version", **save}
    return {"1": {"class_type": "SteadyEditLoadSequence", "inputs": load},
            "2": {"class_type": "SteadyEditSaveSequence", "inputs": {
                "images": ["1", 0], "alpha": ["1", 1], "start_number": ["1", 3], **kept}}}  # fmt: skip


def test_a_plate_goes_through_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frames, alpha = torch.randn(8, 24, 32, 3) * 4, torch.rand(8, 24, 32)
    write_sequence(output_paths(tmp_path, "plates/plate.####", ".exr", range(1001, 1009)), frames, alpha, "EXR float",
                   images=LINEAR)
    for name in ("plates/plate.####.exr", str(tmp_path / "plates"), "plates/plate.1002.exr"):
        run = run_standalone(graph(name), tmp_path / "results")
        assert run.results["1"][2:4] == (float(24000 / 1001), 1001)
        assert run.results["1"][4].startswith("plate.####.exr: 8 frames, 1001 to 1008, 32x24, 23.976 a second\n")
    assert [path.name for path in run.saved] == [f"comp_v003_{n}.exr" for n in range(1003, 1007)]
    assert run.results["2"][0].splitlines()[0] == "out/comp_v003_1003.exr to comp_v003_1006.exr: 4 frames"
    back = read_sequence(found("comp_v003_####.exr", [tmp_path / "results" / "out"]), images=LINEAR)
    assert back.numbers == [1003, 1004, 1005, 1006]
    assert torch.equal(back.frames, frames[2:6]) and torch.equal(back.alpha, alpha[2:6])


@pytest.mark.parametrize(("name", "save", "sentence"), [
    ("no_####.exr", {}, "name: there is no sequence 'no_####.exr'"),
    ("p.####.exr", {"name": "../x"}, "name: '../x' leaves the folder"),
    ("p.####.exr", {"name": "x.png"}, "name: 'x.png' ends in .png, but .exr files are to be written"),
    ("p.####.exr", {"handles": 4}, "handles: 4 at each end leave none of 8 frames"),
])  # fmt: skip
def test_one_sentence_each(tmp_path, monkeypatch, name, save, sentence):
    monkeypatch.chdir(tmp_path)
    paths = output_paths(tmp_path, "p.####", ".exr", range(1001, 1009))
    write_sequence(paths, torch.rand(8, 4, 4, 3), None, "EXR half")
    with pytest.raises(GraphError, match=sentence):
        run_standalone(graph(name, **save), tmp_path / "results")
    assert not (tmp_path / "results").exists() and not (tmp_path / "x_0001.exr").exists()
