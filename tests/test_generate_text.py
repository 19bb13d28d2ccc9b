"""Clips described by a text encoder of ComfyUI: which ones see, what the host is asked, what the command says."""

from __future__ import annotations

import json
from contextlib import contextmanager

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from steadyedit.standalone import cli, generate_text
from steadyedit.standalone.graph import GraphError
from test_curation import SMALL, moving, rows_of
from test_curation_answers import EDITED, PLAIN

NORM = "model.layers.0.post_feedforward_layernorm.weight"
EYES = "model.visual.deepstack_merger_list.0.norm.weight"
QWEN3_VL = {EYES, generate_text.WIDTH}
LANGUAGE = {f"model.language_model.{name}.weight" for name in ("embed_tokens", "layers.0.input_layernorm", "norm")}
QWEN35 = {"model.language_model.layers.0.linear_attn.A_log", "model.visual.patch_embed.proj.weight"}


@pytest.mark.parametrize(("keys", "seen"), [
    (QWEN3_VL, True), (QWEN35, True), ({NORM, "vision_model.embeddings.patch_embedding.weight"}, True),
    # Without eyes; with eyes that Generate Text shows nothing; the part of Qwen3-VL that MiniMax takes.
    ({NORM}, False), ({EYES}, False), ({NORM, "vision_tower.vision_model.head.weight"}, False),
    ({"model.language_model.layers.0.linear_attn.A_log"}, False),
    ({"model.layers.0.self_attn.k_proj.bias", "visual.patch_embed.proj.weight"}, False),
    ({"visual.deepstack_merger_list.0.norm.weight"}, False),
    ({"encoder.block.0.layer.0.SelfAttention.k.weight"}, False),
])  # fmt: skip
def test_which_text_encoders_see(keys, seen):
    assert generate_text.sees(keys) is seen


def test_the_pictures_are_one_batch_in_order():
    for count in (1, 2, 8):
        names = [f"{number}.png" for number in range(count)]
        graph = generate_text.question("a.safetensors", names, "What is it?", 40)

        def batch(link, graph=graph):
            node = graph[link[0]]
            if node["class_type"] == "LoadImage":
                return [node["inputs"]["image"]]
            return batch(node["inputs"]["image1"]) + batch(node["inputs"]["image2"])

        asked = graph[generate_text.ASKED]["inputs"]
        assert batch(asked["image"]) == names
        assert (asked["prompt"], asked["max_length"], asked["sampling_mode"]) == ("What is it?", 40, "off")


class Host:
    def __init__(self, folder):
        self.input = folder


@pytest.fixture
def comfy(tmp_path, monkeypatch):
    """A ComfyUI with a text encoder that sees; ``sent`` is what it was asked, ``answers`` what it says."""
    folder = tmp_path / "ComfyUI"
    texts = folder / "models" / "text_encoders"
    (texts / "qwen").mkdir(parents=True)
    (folder / "main.py").touch()
    whole = {key: torch.zeros(4) for key in QWEN3_VL | LANGUAGE}
    save_file(whole, texts / "qwen" / "vl.safetensors")
    save_file({key: whole[key] for key in LANGUAGE}, texts / "blind.safetensors")
    save_file({key: whole[key] for key in QWEN3_VL}, texts / "last of 4.safetensors")
    save_file(whole | {generate_text.WIDTH: torch.zeros(2048)}, texts / "2B.sft")
    (texts / "torn.safetensors").write_bytes(b"12345678{")
    (tmp_path / "input").mkdir()
    host = Host(tmp_path / "input")
    host.sent, host.answers = [], [PLAIN, json.dumps(EDITED)]

    @contextmanager
    def running(found, output, models=None, packs=()):
        assert found == folder
        (file,) = (models / "text_encoders").iterdir()
        assert file.name == "vl.safetensors" and file.resolve() == texts / "qwen" / "vl.safetensors"
        yield host

    def send(graph, at, bar=True):
        pictures = [node["inputs"]["image"] for node in graph.values() if node["class_type"] == "LoadImage"]
        host.sent.append([Image.open(at.input / name).getpixel((0, 0)) for name in pictures])
        if not host.answers:
            raise GraphError("node 2: out of memory.")
        return {"outputs": {generate_text.SHOWN: {"text": [f"Sure:\n{host.answers.pop(0)}"]}}}

    monkeypatch.setenv("COMFYUI_PATH", str(folder))
    monkeypatch.setattr(generate_text, "running", running)
    monkeypatch.setattr(generate_text, "send", send)
    return host


def curate(folder, *arguments):
    return cli.main(["curate", str(folder / "a.mp4"), "--output", str(folder / "set"), *SMALL, *arguments])


@pytest.mark.parametrize("place", ["", "ComfyUI/models/text_encoders/"], ids=["its name", "its path"])
def test_a_clip_is_described(tmp_path, comfy, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    moving(tmp_path / "a.mp4", frames=9)
    encoder = f"{place}qwen/vl.safetensors"
    assert curate(tmp_path, "--text-encoder", encoder) == 0
    row = rows_of(tmp_path / "set")["a"]
    assert row["subject"] == "animal" and row["combination_difficulty"] == "5" and not row["notes"]
    assert [len(pictures) for pictures in comfy.sent] == [8, 8] and len(set(comfy.sent[0])) > 2
    assert list(comfy.input.iterdir()) == []
    # What is filled is not asked again, and no host is started.
    assert curate(tmp_path, "--text-encoder", encoder) == 0 and len(comfy.sent) == 2


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["--text-encoder", "none.safetensors"], "blind.safetensors, last of 4.safetensors, qwen/"),
    (["--text-encoder", "blind.safetensors"], "would not show it the pictures; choose one that sees them, such as"),
    (["--text-encoder", "last of 4.safetensors"], "is a part of a text encoder; give one that is a single file"),
    (["--text-encoder", "2B.sft"], "does not know this size of Qwen3-VL; give its 4B or 8B"),
    (["--text-encoder", "torn.safetensors"], "torn.safetensors: is no whole safetensors file"),
    (["--text-encoder", "qwen/vl.safetensors", "--model", "."], "both describe the clips; give one"),
])  # fmt: skip
def test_mistakes_are_told_before_any_work(tmp_path, comfy, capsys, arguments, sentence):
    moving(tmp_path / "a.mp4")
    assert curate(tmp_path, *arguments) == 1
    assert sentence in capsys.readouterr().err and not (tmp_path / "set").exists()


def test_an_older_comfyui_is_refused_and_a_newer_not(tmp_path, comfy, capsys):
    moving(tmp_path / "a.mp4")
    version = tmp_path / "ComfyUI" / "comfyui_version.py"
    version.write_text('__version__ = "0.25.1"\n')
    assert curate(tmp_path, "--text-encoder", "qwen/vl.safetensors") == 1
    assert "needs ComfyUI 0.26 or newer, but" in (err := capsys.readouterr().err) and "is 0.25.1; update it" in err
    assert not (tmp_path / "set").exists()
    version.write_text('__version__ = "0.26.0"\n')
    assert curate(tmp_path, "--text-encoder", "qwen/vl.safetensors") == 0


def test_a_clip_is_kept_where_its_description_fails(tmp_path, comfy):
    moving(tmp_path / "a.mp4")
    comfy.answers = [PLAIN]
    assert curate(tmp_path, "--text-encoder", "qwen/vl.safetensors") != 0
    row = rows_of(tmp_path / "set")["a"]
    assert row["keep"] == "yes" and row["motion"] and row["subject"] == "animal" and not row["style_prompt"]
    comfy.answers = [json.dumps(EDITED)]
    assert curate(tmp_path, "--text-encoder", "qwen/vl.safetensors") == 0
    assert rows_of(tmp_path / "set")["a"]["style_prompt"]


def test_without_a_comfyui(tmp_path, monkeypatch, capsys):
    moving(tmp_path / "a.mp4")
    monkeypatch.setattr("steadyedit.standalone.comfy_process.find_comfy", lambda: None)
    assert curate(tmp_path, "--text-encoder", "vl.safetensors") == 1
    assert "set COMFYUI_PATH to its folder" in capsys.readouterr().err
