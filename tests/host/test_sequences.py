"""Image sequences in the host: its folders and no others, its cancel, its cache, and frames bit for bit."""

from __future__ import annotations

import folder_paths
import pytest
import torch
from steadyedit import nodes

NODES = {node.GET_SCHEMA().node_id: node for node in nodes.node_list()}


@pytest.fixture
def folders(tmp_path, monkeypatch):
    for name in ("input", "output"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(folder_paths, f"{name}_directory", str(tmp_path / name))
    return tmp_path


def run(node_id, **inputs):
    """Call a node as the host does, with its defaults."""
    defaults = {i.id: i.default for i in NODES[node_id].GET_SCHEMA().inputs if getattr(i, "default", None) is not None}
    with torch.inference_mode():
        return NODES[node_id].execute(**{**defaults, **inputs}).args


def save(images, **inputs):
    return run("SteadyEditSaveSequence", images=images, **inputs)[0]


@pytest.mark.parametrize("kind", ["EXR float", "EXR half", "PNG 16 bit"])
def test_what_is_saved_is_found_again_in_the_output_folder(folders, kind):
    images, alpha = torch.rand(3, 16, 24, 3), torch.rand(3, 16, 24)
    info = save(images, name="a/shot_####", format=kind, alpha=alpha, start_number=1001, files="sRGB")
    ending = ".exr" if kind.startswith("EXR") else ".png"
    assert info.startswith(f"a/shot_1001{ending} to shot_1003{ending}: 3 frames")
    loaded, opaque, fps, first, info = run("SteadyEditLoadSequence", name="a", files="sRGB", fps=29.97)
    assert (fps, first) == (30000 / 1001, 1001) and "29.97 a second" in info
    expected = images.half().float() if kind == "EXR half" else images
    worst = 0.5 / 65535 + 1e-7 if kind == "PNG 16 bit" else 0
    assert (loaded - expected).abs().max() <= worst and (opaque - alpha).abs().max() <= max(worst, 2.0**-11)


def test_files_outside_of_the_hosts_folders_are_not_read(folders):
    outside = folders / "secret"
    save(torch.rand(2, 8, 8, 3), name="shot_####")
    (folders / "output").rename(outside)
    (folders / "output").mkdir()
    for name in (str(outside), "../secret", str(outside / "shot_####.png")):
        with pytest.raises((ValueError, FileNotFoundError), match="^name: "):
            run("SteadyEditLoadSequence", name=name)
    # What is linked inside was put there by its owner.
    (folders / "input" / "plates").symlink_to(outside)
    assert len(run("SteadyEditLoadSequence", name="plates/shot_####.png")[0]) == 2
    with pytest.raises(ValueError, match="^name: "):
        save(torch.rand(1, 8, 8, 3), name=str(folders / "x"))


def test_the_cache_notices_a_frame_that_is_written_again(folders):
    node = NODES["SteadyEditLoadSequence"]
    save(torch.rand(2, 8, 8, 3), name="shot_####")
    before = node.fingerprint_inputs(name="shot_####.png")
    assert before == node.fingerprint_inputs(name="shot_####.png", first=3)
    save(torch.rand(2, 8, 16, 3), name="shot_####", existing="overwrite")
    assert node.fingerprint_inputs(name="shot_####.png") != before
    gone = node.fingerprint_inputs(name="gone_####.png")
    assert gone != gone, "what is not there is looked for again"


def test_the_hosts_cancel_leaves_no_frame(folders, monkeypatch):
    from comfy.model_management import InterruptProcessingException
    from steadyedit.backends.comfy_native import ComfyBackend

    class Stops:
        def update(self, value, preview=None, **numbers):
            if value == 2:
                raise InterruptProcessingException

    monkeypatch.setattr(ComfyBackend, "progress", lambda self, total, label: Stops())
    with pytest.raises(InterruptProcessingException):
        save(torch.rand(4, 8, 8, 3), name="a/shot_####")
    assert not [path for path in (folders / "output").rglob("*") if path.is_file()]
