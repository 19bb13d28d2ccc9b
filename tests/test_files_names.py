"""Output paths: whatever a user or a graph names stays inside the folder, or is refused in one sentence."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest
import torch
from steadyedit.files.names import DEVICES, LONGEST, free_path, inside, safe_name
from steadyedit.files.writing import whole

#: What names are made of in the fuzz: what is special somewhere, between what is not.
PIECES = ["", ".", "..", "/", "//", "\\", "~", "a", "films", "C:", "con", "NUL.txt", "com1", " ", "\0", "\n", "é",
          "影", "\ud800", "%", "%year%", "%width%", "%date:yyyy%", "*", "?", "<", "|", "-", "x" * 120, "x" * 300,
          "_00001", ".part", "/etc", "link", "$HOME", "'", '"', "\x7f", "🐟"]  # fmt: skip


def names(count: int):
    draw = random.Random(0)
    yield from PIECES
    for _ in range(count):
        yield "".join(draw.choice(PIECES) for _ in range(draw.randint(1, 6)))


def everything(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if not path.is_dir()}


@pytest.fixture
def place(tmp_path):
    """An output folder between others, with a link that leads out of it."""
    (tmp_path / "out").mkdir()
    (tmp_path / "beside").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path / "beside", target_is_directory=True)
    return tmp_path / "out"


def test_no_name_leaves_the_folder(place):
    """Fuzzed: each is written inside, under a name of its own, or refused in a sentence with nothing written."""
    written = 0
    for name in [*names(800), str(place.parent / "beside" / "x"), "link/x"]:
        try:
            path = free_path(place, name, ".bin")
        except ValueError as error:
            said = str(error)
            assert said.startswith("filename_prefix: ") and "\n" not in said and said.endswith("."), said
            continue
        finally:
            assert not everything(place.parent)
        assert path.is_relative_to(place) and not path.exists() and len(path.name.encode()) <= 255
        assert not {part.split(".")[0].lower() for part in path.relative_to(place).parts[:-1]} & DEVICES
        with whole(path) as temporary:
            temporary.write_bytes(b"x")
        assert everything(place.parent) == {path}
        assert path.resolve().is_relative_to(place.resolve())
        path.unlink()
        written += 1
    assert written > 200


@pytest.mark.parametrize(("name", "sentence"), [
    ("", "names no file"), (".", "names no file"), ("x/..", "names no file"), ("...", "names no file"),
    ("x/.", "names no file"), ("x\\.", "names no file"), ("~/x", "leaves the folder"),
    ("~", "leaves the folder"), ("..", "leaves the folder"), ("../x", "leaves the folder"),
    ("a/../../x", "leaves the folder"),
    ("..\\x", "leaves the folder"), ("/etc/passwd", "leaves the folder"), ("C:\\x", "leaves the folder"),
    ("link/x", "leaves the folder"), ("a\0b", "no file name can have"), ("a\nb", "no file name can have"),
    ("\ud800", "no file name can have"), (7, "no file name can have"), ("x" * (LONGEST + 1), "too long"),
])  # fmt: skip
def test_each_refusal_says_why(place, name, sentence):
    with pytest.raises(ValueError, match=f"^filename_prefix: .*{sentence}"):
        free_path(place, name, ".mp4")


def test_names_that_are_taken_as_the_host_takes_them(place):
    assert free_path(place, "films/", "_.mp4") == place / "films_00001_.mp4"
    assert free_path(place, "a/./b/../c", ".mp4") == place / "a" / "c_00001.mp4"
    assert free_path(place, str(place / "a" / "c"), ".mp4") == place / "a" / "c_00001.mp4"
    assert free_path(place, "a\\c", ".mp4") == place / "a" / "c_00001.mp4"
    assert free_path(place, "con/aux.x", ".mp4") == place / "_con" / "_aux.x_00001.mp4"
    (place / "c_00041_.mp4").touch()
    (place / "c_x.mp4").touch()
    assert free_path(place, "c", "_.mp4").name == "c_00042_.mp4"
    assert free_path(place, "%width%x%height%_%what%", ".png", size=(64, 32)).name == "64x32_%what%_00001.png"
    year = free_path(place, "%year%-%month%-%day%", ".png").name.split("-")
    assert int(year[0]) >= 2024 and len(year[1]) == 2


def test_a_nodes_id_is_a_name():
    for text in names(500):
        name = safe_name(text)
        assert name and not set(name) & set('/\\:\0') and not name.startswith(".") and len(name) <= LONGEST + 1
    assert safe_name("12:frames") == "12_frames" and safe_name("x" * 300 + ".mp4").endswith("x.mp4")
    with pytest.raises(ValueError, match="^key: "):
        inside(Path("out"), "/x/authorized", "key")


@pytest.mark.skipif("comfy_api" in sys.modules, reason="a host is loaded in this process")
@pytest.mark.parametrize("prefix", ["", ".", "x/..", "x/.", "~/x", "..", "../x", "/x", "a\0", "x" * 400])
@pytest.mark.parametrize("node", ["SaveVideo", "SaveImage", "SaveLoRA", "LossGraphNode", "SteadyEditSaveTuned"])
def test_nodes_that_save_leave_nothing_behind(node, prefix, tmp_path, monkeypatch):
    from steadyedit.files import places
    from steadyedit.methods.tuned_weights import TunedWeights
    from steadyedit.standalone import host_api
    from steadyedit.standalone.run import known_nodes
    from steadyedit.standalone.video_values import Video, VideoComponents

    monkeypatch.setenv("STEADYEDIT_WEIGHTS", str(tmp_path / "out"))
    images = torch.zeros(2, 16, 16, 3)
    inputs = {
        "SaveVideo": {"video": Video(VideoComponents(images, 8)), "format": "mp4"}, "SaveImage": {"images": images},
        "SaveLoRA": {"lora": {"a": torch.zeros(1)}}, "LossGraphNode": {"loss": {"loss": [1.0, 0.5]}},
        "SteadyEditSaveTuned": {"weights": TunedWeights({"a": torch.ones(3)}, {"version": 1})},
    }[node]  # fmt: skip
    known = known_nodes()[node]
    label = "prefix" if node == "SaveLoRA" else "filename_prefix"
    with host_api.installed(), places.using(places.Folders(tmp_path, tmp_path / "out")):
        with pytest.raises(ValueError, match=f"^{label}: "):
            known.execute(**inputs, **{label: prefix})
        assert not list(tmp_path.iterdir())
        known.execute(**inputs, **{label: "films/clip"})
    assert {path.parent for path in everything(tmp_path)} == {tmp_path / "out" / "films"}


def test_a_graphs_node_id_names_no_file_of_the_host(tmp_path):
    """``/x/authorized`` with a file ``keys`` wrote /x/authorized_keys."""
    from steadyedit.standalone.comfy_host import bring_files

    class Host:
        comfy, input = tmp_path, tmp_path / "host"

    (tmp_path / "host").mkdir()
    (tmp_path / "keys").write_text("mine")
    ids = [f"{tmp_path}/x/authorized", "../up", "a\0b", "1:2", "", "x" * 300]
    (tmp_path / "x").mkdir()
    graph = {key: {"class_type": "LoadVideo", "inputs": {"file": str(tmp_path / "keys")}} for key in ids}
    bring_files(graph, Host)
    brought = {tmp_path / "host" / node["inputs"]["file"] for node in graph.values()}
    assert len(brought) == len(ids) and everything(tmp_path) == {*brought, tmp_path / "keys"}
    assert all(path.parent == tmp_path / "host" and path.read_text() == "mine" for path in brought)


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_a_linked_output_folder_is_the_users_own(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk", target_is_directory=True)
    path = free_path(tmp_path / "out", "films/a", ".mp4")
    with whole(path) as temporary:
        temporary.write_bytes(b"x")
    assert (tmp_path / "disk" / "films" / "a_00001.mp4").is_file()
