"""The cache of trainings has a limit, and a command empties it."""

from __future__ import annotations

import os
import sys

import pytest
from steadyedit.files.cache import GB, entries, limit_bytes, trim
from steadyedit.standalone.cli import main


@pytest.fixture
def cache(tmp_path):
    """Four files of 100 bytes, used one after the other, and what a killed process left."""
    folder = tmp_path / "weights" / "cache"
    folder.mkdir(parents=True)
    for number, name in enumerate(("old.safetensors", "b.checkpoint", "c.safetensors", "new.safetensors")):
        (folder / name).write_bytes(bytes(100))
        os.utime(folder / name, (1e9 + number, 1e9 + number))
    (folder / ".steadyedit-0123456789ab.part").write_bytes(bytes(100))
    return folder


def names(folder):
    return [entry.path.name for entry in entries(folder)]


def test_what_is_unused_for_longest_goes_first(cache):
    assert [entry.path.name for entry in trim(cache, 250)] == ["old.safetensors", "b.checkpoint"]
    assert names(cache) == ["c.safetensors", "new.safetensors"]
    os.utime(cache / "c.safetensors", (2e9, 1e9))
    assert [entry.path.name for entry in trim(cache, 100)] == ["new.safetensors"]
    assert trim(cache, 100) == [] and trim(cache / "none", 0) == []
    assert not trim(cache, 0, keep=[cache / "c.safetensors"]) and names(cache) == ["c.safetensors"]


def test_the_limit_is_an_environment_variable(monkeypatch):
    monkeypatch.delenv("STEADYEDIT_CACHE_GB", raising=False)
    assert limit_bytes() == 20 * GB
    monkeypatch.setenv("STEADYEDIT_CACHE_GB", "0.5")
    assert limit_bytes() == GB // 2
    for wrong in ("many", "-1", "nan", "inf"):
        monkeypatch.setenv("STEADYEDIT_CACHE_GB", wrong)
        with pytest.raises(ValueError, match="STEADYEDIT_CACHE_GB: expected a number of gigabytes"):
            limit_bytes()


@pytest.mark.skipif("comfy_api" in sys.modules, reason="a host is loaded in this process")
def test_a_training_makes_room_first(cache, monkeypatch):
    from steadyedit.standalone import host_api

    with host_api.installed():
        from steadyedit.nodes.training import cache_of

    class Backend:
        def weights_folder(self):
            return cache.parent

    assert cache_of(Backend(), False) is None and len(names(cache)) == 5
    monkeypatch.setenv("STEADYEDIT_CACHE_GB", str(150 / GB))
    assert cache_of(Backend(), True) == cache and names(cache) == ["new.safetensors"]


def test_the_command_shows_trims_and_empties(cache, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("STEADYEDIT_WEIGHTS", str(cache.parent))
    (tmp_path / "comfy").mkdir()
    (tmp_path / "comfy" / "main.py").touch()
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "comfy"))
    assert main(["cache"]) == 0
    shown = capsys.readouterr().out
    assert "old.safetensors" in shown and f"{cache}: 5 files" in shown
    assert f"{tmp_path / 'comfy' / 'models' / 'steadyedit' / 'cache'}: 0 files" in shown
    assert main(["cache", "--folder", str(cache), "--limit", str(250 / GB)]) == 0
    assert f"{cache}: removed 2 files" in capsys.readouterr().out and len(names(cache)) == 2
    (cache.parent / "mine.safetensors").touch()
    assert main(["cache", "--empty"]) == 0
    assert names(cache) == [] and (cache.parent / "mine.safetensors").exists()
    assert main(["cache", "--limit", "-1"]) == 1
    assert "--limit -1.0: expected gigabytes" in capsys.readouterr().err
