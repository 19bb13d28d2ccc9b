"""Graphs for real models say where their files are to be had, and the table of them says the same."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from forms import editor_forms, name_of
from steadyedit.methods.lora_edit.choices import MEMORY_PRESETS

ROOT = Path(__file__).resolve().parents[1]
MODELS = {model["name"]: model for model in json.loads((ROOT / "docs" / "models.json").read_text(encoding="utf-8"))}
FILES = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
#: What has no address of one file, and why.
WITHOUT = {
    "sam2.1-hiera-small": "a folder in transformers' format: several files",
    "grounding-dino-tiny": "a folder in transformers' format: several files",
    "Florence-2-base": "a folder in transformers' format: several files",
    "Qwen2.5-VL-3B-Instruct": "a folder in transformers' format: several files",
    "toy world (shipped)": "comes with this pack",
    "none": "no model",
}
#: Loaders by their class, and the folder that the host looks in; ours are folders themselves.
LOADERS = {
    "CheckpointLoaderSimple": "checkpoints", "UNETLoader": "diffusion_models", "CLIPLoader": "text_encoders",
    "DualCLIPLoader": "text_encoders", "VAELoader": "vae", "CLIPVisionLoader": "clip_vision",
    "ControlNetLoader": "controlnet", "LoraLoaderModelOnly": "loras",
}  # fmt: skip
OURS = {"SteadyEditSAMModel", "SteadyEditGroundingModel", "SteadyEditCaption", "SteadyEditDescribeRegion"}


def forms():
    """Every graph and blueprint as the editor has it."""
    return sorted([*editor_forms().values(), *ROOT.glob("subgraphs/*.json")])


def nodes(path):
    graph = json.loads(path.read_text(encoding="utf-8"))
    return graph["nodes"] + [node for one in graph.get("definitions", {}).get("subgraphs", []) for node in one["nodes"]]


def texts(node):
    if node["type"] == "SteadyEditLoadTuned":
        return []  # names what a graph of this pack has saved on the user's machine
    values = node.get("widgets_values") or []
    return [value for value in (values.values() if isinstance(values, dict) else values) if isinstance(value, str)]


@pytest.mark.parametrize("path", forms(), ids=lambda path: path.stem)
def test_every_file_has_its_address_beside_its_loader(path):
    for node in nodes(path):
        named = [text for text in texts(node) if text.endswith(FILES)]
        assert not (node["type"] in LOADERS and not named), f"{node['type']} names no file"
        missing = [name for name in named if name not in MODELS]
        assert not missing, f"docs/models.json lacks {missing}; nodes {node['type']}"
        fields = ("name", "url", "directory")
        wanted = [{field: MODELS[name][field] for field in fields} for name in named]
        assert node.get("properties", {}).get("models", []) == wanted
        if node["type"] in LOADERS:
            assert {model["directory"] for model in wanted} == {LOADERS[node["type"]]}
        if node["type"] in OURS:
            assert texts(node) and any(text in WITHOUT for text in texts(node)), f"{node['type']}: {texts(node)}"


def test_addresses_are_of_single_safe_files():
    """What the editor's downloads take: safetensors of Hugging Face, under the name that the graph gives."""
    for name, model in MODELS.items():
        assert model["url"].startswith("https://huggingface.co/") and "/resolve/main/" in model["url"]
        assert model["url"].endswith(f"/{name}") and name.endswith(".safetensors") and "?" not in model["url"]
        assert model["directory"] in LOADERS.values() and model["licence"] and model["what"]


def test_the_table_says_the_same():
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| [") and ".safetensors]" in line]
    used = {name: sorted(name_of(path) for path in forms() if any(name in texts(node) for node in nodes(path)))
            for name in MODELS}
    assert rows == [
        f"| [{name}]({model['url']}) | `{model['directory']}` | {model['what']} | {model['gigabytes'] or ''} | "
        f"{model['licence']} | {', '.join(f'`{graph}`' for graph in used[name])} |" for name, model in MODELS.items()]


@pytest.mark.parametrize("path", sorted([*ROOT.glob("workflows/api/*.json"), *ROOT.glob("subgraphs/api/*.json")]),
                         ids=lambda path: path.stem)
def test_no_two_nodes_have_one_number(path):
    """JSON keeps the last of two equal keys and says nothing."""
    def once(pairs):
        keys = [key for key, _ in pairs]
        assert len(keys) == len(set(keys)), sorted(key for key in keys if keys.count(key) > 1)
        return dict(pairs)

    json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)


def test_the_table_of_cards_names_every_graph_for_real_models():
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:3] for line in text.splitlines() if re.match(r"\| \d+ GB \| `", line)]
    named = {graph for _, graphs in rows for graph in re.findall(r"`(\w+)`", graphs)}
    real = {name_of(path) for path in editor_forms().values() if any(name in texts(node) for node in nodes(path)
                                                                     for name in MODELS)}  # fmt: skip
    assert named == real
    assert {card.strip() for card, _ in rows} == {value for value in MEMORY_PRESETS if value.endswith("GB")}
