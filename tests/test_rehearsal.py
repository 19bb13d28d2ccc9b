"""What a rehearsal makes of a graph before a host runs it: smaller values, files of its own, probes."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest
import torch
from steadyedit.standalone import cli
from steadyedit.standalone.graph import GraphError, check_links, is_link
from steadyedit.standalone.rehearsal import files, layout_sd, layout_vae, layout_video, probes, reduce, weights
from steadyedit.standalone.rehearsal.pieces import pieces, read_piece, real_pieces
from steadyedit.standalone.rehearsal.run import needs_fresh_host
from tolerances import NETWORK

REAL = real_pieces()


def test_every_graph_for_real_models_is_rehearsed():
    assert {"ei2", "dape", "via_local", "lora_edit_wan", "lora_edit_hunyuan"} <= set(REAL)
    assert not [name for name in REAL if name.startswith("toy_")]
    with pytest.raises(GraphError, match="there is no graph 'nothing'; there are dape"):
        read_piece("nothing")


@pytest.mark.parametrize("name", REAL)
def test_only_values_of_widgets_are_made_smaller(name):
    graph = read_piece(name)
    before = deepcopy(graph)
    small = reduce.reduced(graph)
    assert graph == before
    assert {key: node["class_type"] for key, node in small.items()} == {
        key: node["class_type"] for key, node in graph.items()}
    changed = [(small[key]["inputs"][field], value) for key, node in graph.items()
               for field, value in node["inputs"].items() if small[key]["inputs"][field] != value]
    assert changed and not [value for _, value in changed if is_link(value)]
    assert all(new < old for new, old in changed if isinstance(new, int) and not isinstance(new, bool))


@pytest.mark.parametrize("name", REAL)
def test_a_layout_is_known_of_every_file(name):
    kinds = {folder for _, folder in files.NETWORKS.values()}
    for one in files.wanted(read_piece(name)):
        assert one.folder in kinds or weights.known(one.folder, one.name), one


@pytest.mark.parametrize("name", REAL)
def test_probes_leave_a_whole_graph_and_its_trainings_can_be_read_from_files(name, tmp_path):
    graph = reduce.reduced(read_piece(name))
    found = probes.add_probes(graph, tmp_path)
    check_links(graph)
    assert found.pictures and found.latents and len(found.source) == len(found.pictures)
    trained = probes.trainings(graph)
    again, latents = probes.instead(graph, tmp_path, dict.fromkeys(trained, "a.safetensors"))
    check_links(again)
    assert latents and not set(trained) & {value[0] for node in again.values() for value in node["inputs"].values()
                                           if is_link(value) and again[value[0]]["class_type"] in probes.SAVERS}
    for key in trained:
        kind, slot = graph[key]["class_type"], probes.TRAINERS[graph[key]["class_type"]]
        assert not [node for node in again.values() if [key, slot] in node["inputs"].values()], kind


def test_scaled_weights_get_a_host_of_their_own():
    assert needs_fresh_host(read_piece("lora_edit_wan_low_vram")) and not needs_fresh_host(read_piece("lora_edit_wan"))


def test_layouts_have_the_true_models_sizes():
    """Parameters of the true widths, in millions, as the models' makers tell them."""
    true = (1, 2, 4, 4)
    assert round(sum(map(torch.Size.numel, map(torch.Size, layout_sd.unet(4, true).values()))) / 1e6) == 860
    assert round(sum(map(torch.Size.numel, map(torch.Size, layout_sd.controlnet(true).values()))) / 1e6) == 361
    assert round(sum(map(torch.Size.numel, map(torch.Size, layout_sd.text_encoder().values()))) / 1e6) == 123
    assert round(sum(map(torch.Size.numel, map(torch.Size, layout_vae.kl().values()))) / 1e6, 1) == 83.7
    assert round(sum(map(torch.Size.numel, map(torch.Size, layout_vae.wan(96).values()))) / 1e6) == 127
    assert layout_video.wan()["patch_embedding.weight"] == (256, 36, 1, 2, 2)


def test_fp8_files_hold_the_same_weights(tmp_path):
    from safetensors.torch import load_file

    weights.write(tmp_path / "wan2.1_i2v_bf16.safetensors", lambda: layout_video.wan(1, image=False))
    weights.write(tmp_path / "wan2.1_i2v_fp8_scaled.safetensors", lambda: layout_video.wan(1, image=False))
    plain, scaled = (load_file(path) for path in sorted(tmp_path.glob("*.safetensors")))
    assert scaled["scaled_fp8"].dtype == torch.float8_e4m3fn
    name = "blocks.0.self_attn.q.weight"
    there = scaled[name].float() * scaled["blocks.0.self_attn.q.scale_weight"]
    assert scaled[name].dtype == torch.float8_e4m3fn
    # A mantissa of three bits.
    assert ((there - plain[name].float()).abs() <= plain[name].float().abs() / 16 + NETWORK).all()
    assert all(tensor.float().isfinite().all() for tensor in plain.values())


def test_random_weights_stay_away_from_a_user_s_models(tmp_path):
    installed = tmp_path / "ComfyUI" / "models"
    (installed / "vae").mkdir(parents=True)
    for place in (installed, installed / "vae", installed / "new"):
        with pytest.raises(GraphError, match="is the ComfyUI's own folder"):
            files.models_folder(place, installed)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.safetensors").touch()
    with pytest.raises(GraphError, match="holds other files"):
        files.models_folder(tmp_path / "mine", installed)
    assert files.models_folder(tmp_path / "new", installed) == files.models_folder(tmp_path / "new", installed)


def test_an_unknown_model_is_named_with_its_node(tmp_path):
    graph = {"7": {"class_type": "UNETLoader", "inputs": {"unet_name": "other.safetensors"},
                   "_meta": {"title": "Model"}}}
    with pytest.raises(GraphError, match='node 7 "Model": no narrow weights are known for .other.safetensors.'):
        files.write_models(graph, tmp_path)


def test_the_command_says_a_line_or_a_sentence_for_each(monkeypatch, capsys, tmp_path):
    from steadyedit.standalone.rehearsal import run

    def rehearse(names, comfy, models):
        yield from (GraphError(f"{name}: node 3 failed") if name == "ei2" else f"{name}: ran" for name in names)

    monkeypatch.setattr(run, "rehearse", rehearse)
    (tmp_path / "main.py").touch()
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    assert cli.main(["rehearse", "dape", "dape"]) == 0
    assert capsys.readouterr().out == "dape: ran\n"
    assert cli.main(["rehearse", "ei2", "dape"]) == 1
    said = capsys.readouterr()
    assert said.out == "dape: ran\n" and said.err == "steadyedit: ei2: node 3 failed\n"
    assert cli.main(["rehearse"]) == 1 and "name a graph, or --all" in capsys.readouterr().err


def test_blueprints_are_made_whole():
    for name, path in pieces().items():
        if "_blueprint" in json.loads(path.read_text(encoding="utf-8")):
            check_links(read_piece(name))
