"""Models folders: links are followed as the host does, names that lead out are refused, new files are noticed."""

from __future__ import annotations

import os
import time

import pytest
from steadyedit.files.found import listed_files, located, stamp, walk

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")


@pytest.fixture
def models(tmp_path):
    """A models folder with links to another disk, a circle, and a link to nowhere."""
    disk, models = tmp_path / "disk", tmp_path / "models"
    for path in (disk / "big.safetensors", disk / "more" / "deep" / "c.SAFETENSORS", models / "a.safetensors",
                 models / "cache" / "x.safetensors", models / "sub" / "cache" / "y.safetensors"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1")
    (models / "linked.safetensors").symlink_to(disk / "big.safetensors")
    (models / "folder").symlink_to(disk / "more", target_is_directory=True)
    (models / "circle").symlink_to(models, target_is_directory=True)
    (models / "gone.safetensors").symlink_to(disk / "nothing")
    return models


def test_linked_files_and_folders_are_listed_and_opened(models):
    names = listed_files([models, models.parent / "none"], [".safetensors"], without=["cache"])
    assert names == ["a.safetensors", "folder/deep/c.SAFETENSORS", "linked.safetensors", "sub/cache/y.safetensors"]
    for name in names:
        assert located([models], name).read_bytes() == b"1"
    assert located([models], "folder") == models / "folder"
    # A circle ends; a folder that is linked twice is walked twice.
    (models / "again").symlink_to(models.parent / "disk" / "more", target_is_directory=True)
    assert sum(folder.name == "deep" for folder, _ in walk(models)) == 2


def test_several_folders_hide_nothing(models, tmp_path):
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "b.safetensors").touch()
    (tmp_path / "extra" / "a.safetensors").touch()
    both = [tmp_path / "extra", models]
    assert {"a.safetensors", "b.safetensors", "linked.safetensors"} <= set(listed_files(both, [".safetensors"]))
    assert located(both, "a.safetensors").parent == tmp_path / "extra"
    assert located(both, "linked.safetensors").parent == models


@pytest.mark.parametrize("name", ["../disk/big.safetensors", "sub/../../disk/big.safetensors", "/etc/passwd", "..",
                                  "..\\disk\\big.safetensors", "C:\\x", "\\\\server\\x"])
def test_names_that_lead_out_are_refused(models, name):
    with pytest.raises(ValueError, match="^name: .* leaves the models folder; use a name inside it.$"):
        located([models], name, "name")


@pytest.mark.parametrize("name", ["", "none", "gone.safetensors", "a\0b", "x" * 400])
def test_what_is_not_there_is_told(models, name):
    with pytest.raises(FileNotFoundError, match="^model: .* is not in .*put it there and reload the page.$"):
        located([models], name)


def test_a_stamp_follows_the_files(models):
    """A folder's own time stands still when a file in it is overwritten."""
    for path, file in ((models / "a.safetensors",) * 2, (models / "folder", models / "folder/deep/c.SAFETENSORS"),
                       (models / "linked.safetensors", models.parent / "disk" / "big.safetensors")):
        before, folder_time = stamp(path), path.parent.stat().st_mtime_ns
        assert stamp(path) == before
        file.write_bytes(b"22")
        assert stamp(path) != before and path.parent.stat().st_mtime_ns == folder_time
        before = stamp(path)
        os.utime(file, ns=(time.time_ns(), time.time_ns() + 10**9))
        assert stamp(path) != before
    assert stamp(models / "none") == stamp(models / "none")
