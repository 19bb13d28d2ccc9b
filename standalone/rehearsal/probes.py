"""Nodes added to a graph that keep what the checks look at, and the same graph with what it trained read from files."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..graph import Graph, is_link
from .reduce import above, running

KEEP, PACKING = "SteadyEditRehearsalKeep", "SteadyEditRehearsalPacking"
SAMPLERS = ("KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced")
COMPOSITES = ("SteadyEditComposite",)
CONDITION = "SteadyEditMaskCondition"
#: Savers of what was trained: class -> its input.
SAVERS = {"SaveLoRA": "lora", "SteadyEditSaveLoRA": "lora", "SteadyEditSaveTuned": "weights"}
#: Trainings -> the output that is the trained model.
TRAINERS = {"SteadyEditMaskLoRATrain": 1, "SteadyEditTestTimeAdapt": 0, "SteadyEditOneShotTune": 0,
            "SteadyEditNormTune": 0, "SteadyEditVisualAdapterTrain": 0}
#: What a file of tuned weights attaches by itself.
ATTACHED = ("SteadyEditSTAM", "SteadyEditFFAM", "SteadyEditSparseCausal", "SteadyEditTemporalAttention",
            "SteadyEditSimDA")  # fmt: skip


@dataclass
class Probes:
    """Where the kept tensors lie, by what they are of.

    Args:
        source: (frames, rate) of every node whose rate goes into a saved video, by its key.
        pictures, latents: of what is made into a video, and of what samplers give.
        composites: (original, mask, result, pixels that the edit may reach), by key.
        conditions: (condition, independent packing), by key.
    """

    source: dict[str, tuple[Path, Path]] = field(default_factory=dict)
    pictures: dict[str, Path] = field(default_factory=dict)
    latents: dict[str, Path] = field(default_factory=dict)
    composites: dict[str, tuple[Path, Path, Path, int]] = field(default_factory=dict)
    conditions: dict[str, tuple[list[Path], Path]] = field(default_factory=dict)


class Adding:
    """Adds probes to a graph, each writing a file of its own in a folder."""

    def __init__(self, graph: Graph, folder: Path):
        self.graph, self.folder, self.added = graph, folder, 0

    def keep(self, link: Any) -> Path:
        """The file in which the value of a link will be."""
        path = self.file()
        self.put(KEEP, {"value": link, "path": str(path)})
        return path

    def file(self) -> Path:
        self.added += 1
        return self.folder / f"{self.added}.safetensors"

    def put(self, kind: str, inputs: dict[str, Any]) -> None:
        self.graph[f"probe:{self.added}"] = {"class_type": kind, "inputs": inputs, "_meta": {"title": "Probe"}}


def add_probes(graph: Graph, folder: Path) -> Probes:
    """Probe a graph in place."""
    adding, probes, at_work = Adding(graph, folder), Probes(), running(graph)
    for key, node in list(graph.items()):
        kind, inputs = node["class_type"], node["inputs"]
        if key not in at_work:
            continue
        if kind == "CreateVideo":
            probes.pictures[key] = adding.keep(inputs["images"])
            if is_link(inputs["fps"]):
                source = inputs["fps"][0]
                probes.source[key] = (adding.keep([source, 0]), adding.keep(inputs["fps"]))
        elif kind in SAMPLERS:
            probes.latents[key] = adding.keep([key, 0])
        elif kind in COMPOSITES:
            reach = inputs["feather"] + max(inputs["grow"], 0) + 1
            kept = [adding.keep(inputs[name]) for name in ("original", "mask")]
            probes.composites[key] = (kept[0], kept[1], adding.keep([key, 0]), reach)
        elif kind == CONDITION:
            conditions, packed = [adding.keep([key, 0]), adding.keep([key, 1])], adding.file()
            names = ("vae", "video", "keep", "family", "pooling", "gray", "mask", "edited_first_frame")
            adding.put(PACKING, {**{name: inputs[name] for name in names if name in inputs}, "path": str(packed)})
            probes.conditions[key] = (conditions, packed)
    return probes


def trainings(graph: Graph) -> dict[str, str]:
    """Trainings whose result the graph saves -> the node that saves it."""
    return {node["inputs"][SAVERS[node["class_type"]]][0]: key for key, node in graph.items()
            if node["class_type"] in SAVERS and is_link(node["inputs"].get(SAVERS[node["class_type"]]))}


def untrained(graph: Graph, key: str) -> list:
    """The link to the model that a training began with, below what its file attaches by itself."""
    link = graph[key]["inputs"]["model"]
    while graph[link[0]]["class_type"] in ATTACHED:
        link = graph[link[0]]["inputs"]["model"]
    return link


def instead(graph: Graph, folder: Path, files: dict[str, str] | None) -> tuple[Graph, dict[str, Path]]:
    """A graph that samples alone, with other models in the place of its saved trainings.

    Args:
        graph: with or without probes, whose files are left alone.
        folder: for what is kept.
        files: names below the host's models folder, by key of the training; None takes the untrained models.

    Returns:
        The graph, and where the samplers' latents will be, by key.
    """
    again = deepcopy(graph)
    for key in trainings(graph):
        kind, base = graph[key]["class_type"], untrained(again, key)
        link = base
        if files is not None:
            lora = kind in ("SteadyEditMaskLoRATrain", "SteadyEditTestTimeAdapt")
            link = [f"loaded:{key}", 0]
            again[link[0]] = {
                "class_type": "LoraLoaderModelOnly" if lora else "SteadyEditLoadTuned",
                "inputs": {"model": base, "lora_name": files[key], "strength_model": 1.0} if lora
                else {"model": base, "name": files[key]},
                "_meta": {"title": "What was trained, from its file"},
            }  # fmt: skip
        for other, node in again.items():
            if other != link[0]:
                for name, value in node["inputs"].items():
                    if value == [key, TRAINERS[kind]]:
                        node["inputs"][name] = list(link)
    at_work = running(again)
    kept = [key for key in at_work if again[key]["class_type"] in SAMPLERS]
    _drop_outputs(again, kept)
    adding = Adding(again, folder)
    return again, {key: adding.keep([key, 0]) for key in kept}


def _drop_outputs(graph: Graph, kept: list[str]) -> None:
    """Leave only what these nodes need."""
    needed = set().union(*(above(graph, key) for key in kept))
    for key in [key for key in graph if key not in needed]:
        del graph[key]
