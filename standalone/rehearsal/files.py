"""What a graph loads: the files and folders that its loaders name, written where the rehearsal's host looks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...files.names import inside
from ..graph import Graph, GraphError, label
from . import media, weights
from .reduce import frames_of, running

#: Loaders of one file each: class -> input, folder below models.
LOADERS = {
    "CheckpointLoaderSimple": ("ckpt_name", "checkpoints"),
    "UNETLoader": ("unet_name", "diffusion_models"),
    "VAELoader": ("vae_name", "vae"),
    "CLIPVisionLoader": ("clip_name", "clip_vision"),
    "ControlNetLoader": ("control_net_name", "controlnet"),
    "LoraLoaderModelOnly": ("lora_name", "loras"),
}
#: Loaders of folders in transformers' format.
NETWORKS = {
    "SteadyEditSAMModel": ("model", "sams"),
    "SteadyEditGroundingModel": ("model", "grounding-dino"),
    "SteadyEditCaption": ("model", "LLM"),
    "SteadyEditDescribeRegion": ("model", "LLM"),
}
#: What is no file of the user's.
NO_FILE = ("none", "toy world (shipped)")
#: Text encoders of billions of weights, of which the host has one size each.
TEXT_ENCODERS = ("CLIPLoader", "DualCLIPLoader")
STAND_IN = "SteadyEditRehearsalText"
#: Marks a folder of models that a rehearsal filled.
MARK = "made_by_steadyedit_rehearse"


@dataclass(frozen=True)
class Wanted:
    """A file that a node names."""

    key: str
    folder: str
    name: str


def wanted(graph: Graph) -> list[Wanted]:
    """The model files and folders that the graph's loaders name."""
    found = []
    for key, node in graph.items():
        field, folder = {**LOADERS, **NETWORKS}.get(node["class_type"], ("", ""))
        name = node["inputs"].get(field)
        if isinstance(name, str) and name not in NO_FILE:
            found.append(Wanted(key, folder, name))
    return found


def models_folder(folder: Path, installed: Path) -> Path:
    """A folder for the rehearsal's own weights, never one with a user's models.

    Args:
        folder: made if it is not there.
        installed: models folder of the ComfyUI.

    Raises:
        GraphError: it is inside of the ComfyUI's, or holds what no rehearsal wrote.
    """
    folder, mark = folder.absolute(), folder / MARK
    if folder.resolve().is_relative_to(installed.resolve()):
        raise GraphError(f"--models {folder}: is the ComfyUI's own folder; random weights do not belong there. "
                         "Name another one.")
    if folder.is_dir() and any(folder.iterdir()) and not mark.is_file():
        raise GraphError(f"--models {folder}: holds other files; random weights do not belong beside them. "
                         "Name an empty folder.")
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text("Random weights of `python -m steadyedit rehearse`; may be deleted.\n", encoding="utf-8")
    for name in {folder for _, folder in {**LOADERS, **NETWORKS}.values()} | {"steadyedit", "text_encoders"}:
        (folder / name).mkdir(exist_ok=True)
    return folder


def write_models(graph: Graph, models: Path) -> None:
    """Write what is missing of the graph's model files.

    What a switch keeps from being loaded is an empty file: the host looks for its name all the same.

    Raises:
        GraphError: a node names a model whose layout is not known here.
    """
    at_work = running(graph)
    for one in wanted(graph):
        path = inside(models / one.folder, one.name, "name")
        if path.is_dir() or (path.is_file() and path.stat().st_size):
            continue
        if one.key not in at_work and one.folder not in {folder for _, folder in NETWORKS.values()}:
            path.touch()
            continue
        if one.folder in {folder for _, folder in NETWORKS.values()}:
            from . import networks

            networks.write(path, one.folder)
            continue
        make = weights.known(one.folder, one.name)
        if make is None:
            raise GraphError(f"{label(graph, one.key)}: no narrow weights are known for '{one.name}'; its layout "
                             "belongs into standalone/rehearsal.")
        weights.write(path, make)


def stand_in_texts(graph: Graph) -> list[str]:
    """Put the stand-in in the place of text encoders that exist in one huge size only; returns the names replaced."""
    replaced, at_work = [], running(graph)
    for key, node in graph.items():
        if node["class_type"] in TEXT_ENCODERS:
            if key in at_work:
                replaced += [value for name, value in node["inputs"].items() if name.startswith("clip_name")]
            node["class_type"] = STAND_IN
            node["inputs"] = {"kind": str(node["inputs"]["type"])}
    return replaced


def write_media(graph: Graph, folder: Path) -> None:
    """Write the clip, masks and edited frames that the graph loads, and name them in it."""
    frames = frames_of(graph)
    for key, node in graph.items():
        inputs: dict[str, Any] = node["inputs"]
        if node["class_type"] == "LoadVideo":
            path = folder / f"{key}_{Path(inputs['file']).name}"
            media.write_video(path, frames)
            inputs["file"] = str(path)
        elif node["class_type"] == "LoadImage":
            path = folder / f"{key}_{Path(inputs['image']).name}"
            numbers = [int(word) for word in path.stem.split("_")[1:] if word.isdigit()]
            media.write_picture(path, min(numbers[-1] if numbers else 0, frames // 2))
            inputs["image"] = str(path)
