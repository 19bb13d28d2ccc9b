"""The host's models folders: what ``extra_model_paths`` adds hides nothing, links are opened, new weights run again."""

from __future__ import annotations

import os

import folder_paths
import pytest
import torch
from steadyedit import backends
from steadyedit.backends.comfy_native import ComfyBackend
from steadyedit.methods.tuned_weights import TunedWeights, save_tuned
from steadyedit.nodes import model_files, node_list, weights

NODES = {node.GET_SCHEMA().node_id: node for node in node_list()}


@pytest.fixture
def places(tmp_path, monkeypatch):
    """The host's own models folder, and one that a user named for our kinds."""
    own, extra = tmp_path / "models", tmp_path / "extra"
    monkeypatch.setattr(folder_paths, "models_dir", str(own))
    for name in ("steadyedit", "sams"):
        (own / name).mkdir(parents=True)
        (extra / name).mkdir(parents=True)
        monkeypatch.setitem(folder_paths.folder_names_and_paths, name, ([str(extra / name)], set()))
    return own, extra


def test_a_named_folder_hides_none(places):
    own, extra = places
    (own / "sams" / "a.pth").touch()
    (extra / "sams" / "b.pth").touch()
    assert model_files.names("sams") == ["a.pth", "b.pth"]
    for folder, name in ((own, "mine"), (extra, "shared")):
        save_tuned(folder / "steadyedit" / f"{name}.safetensors", TunedWeights({"a": torch.ones(3)}, {"version": 1}))
    assert weights.weight_files() == ["mine.safetensors", "shared.safetensors"]
    assert backends.manager().folders("sams") == [extra / "sams", own / "sams"]
    assert ComfyBackend().weights_folder() == extra / "steadyedit"


def test_kinds_that_nobody_named_are_the_hosts_own(places, monkeypatch):
    own, _ = places
    monkeypatch.delitem(folder_paths.folder_names_and_paths, "steadyedit")
    assert ComfyBackend().weights_folder() == own / "steadyedit"
    assert backends.manager().folders("steadyedit") == [own / "steadyedit"]


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_links_are_opened_and_names_that_lead_out_are_not(places, tmp_path):
    own, _ = places
    save_tuned(tmp_path / "disk" / "t.safetensors", TunedWeights({"a": torch.ones(3)}, {"version": 1}))
    (own / "steadyedit" / "linked").symlink_to(tmp_path / "disk", target_is_directory=True)
    assert weights.weight_files() == ["linked/t.safetensors"]
    load = NODES["SteadyEditLoadTuned"]
    assert load.fingerprint_inputs(name="linked/t.safetensors") != load.fingerprint_inputs(name="none")
    for name in ("../../disk/t.safetensors", str(tmp_path / "disk" / "t.safetensors")):
        with pytest.raises(ValueError, match="name: .* leaves the models folder"):
            load.execute(_toy(), name)


@pytest.mark.parametrize("kind", ["SteadyEditSAMModel", "SteadyEditLoadTuned"])
def test_overwritten_weights_run_again(places, kind):
    own, _ = places
    folder = own / {"SteadyEditSAMModel": "sams", "SteadyEditLoadTuned": "steadyedit"}[kind]
    name = {"SteadyEditSAMModel": "tiny", "SteadyEditLoadTuned": "t.safetensors"}[kind]
    file = folder / name / "model.safetensors" if kind == "SteadyEditSAMModel" else folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"1")
    given = {"model": name} if kind == "SteadyEditSAMModel" else {"name": name}
    before, time = NODES[kind].fingerprint_inputs(**given), file.parent.stat().st_mtime_ns
    file.write_bytes(b"22")
    assert file.parent.stat().st_mtime_ns == time
    assert NODES[kind].fingerprint_inputs(**given) != before


def _toy():
    return NODES["SteadyEditToyModel"].execute()[0]
