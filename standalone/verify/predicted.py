"""What was predicted of a graph's nodes, from the fake runs of the papers' sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..gpu.measures import SHARE, predictions
from ..graph import Graph, is_link

TUNE, LORA, INVERT = "SteadyEditOneShotTune", "SteadyEditMaskLoRATrain", "SteadyEditDDIMInversion"
SAMPLERS = ("KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced")
#: Trainings whose work does not hang on what else is attached.
ALWAYS = {LORA: "14B", "SteadyEditNormTune": "dape norms", "SteadyEditVisualAdapterTrain": "dape adapter"}
#: Frames, width and height for which there are predictions, by what they are of.
SIZES = {"ei2": (8, 512, 512), "dape": (8, 512, 512), "14B": (49, 832, 480)}


@dataclass(frozen=True)
class Prediction:
    """Of one node.

    Args:
        seconds: at 45 % of the device's rate in plain products; None where the work is not known.
        gib: at the worst moment, weights included.
    """

    seconds: float | None
    gib: float | None


def predicted(graph: Graph, size: tuple[int, ...], device: Mapping[str, Any]) -> dict[str, Prediction]:
    """Predictions by node, of those that there are at this size.

    Args:
        size: frames, height, width of the edited clip.
        device: ``matrix_tflops`` by dtype, and ``kind``.
    """
    frames, height, width = size
    dtype = "float32" if device["kind"] == "cpu" else "bfloat16"
    rate = SHARE * device["matrix_tflops"][dtype]
    classes = {node["class_type"] for node in graph.values()}
    found = {}
    for key, node in graph.items():
        name, evaluations = _row(node, classes), _steps(graph, node)
        kind = name.partition(" ")[0]
        row = predictions().get((name, dtype))
        if row is None or SIZES.get(kind) != (frames, width, height):
            continue
        # Of guidance's two branches an inversion computes one.
        work = row["work_tflop"] * (evaluations or 0) * (0.5 if node["class_type"] == INVERT else 1)
        weights = row.get("weights_gib")
        found[key] = Prediction(work / rate if work else None,
                                row["fake_gib"] + weights if weights is not None else None)  # fmt: skip
    return found


def _row(node: Mapping[str, Any], classes: set[str]) -> str:
    """The name of the fake run that is of this node's work; "" if there is none."""
    kind = node["class_type"]
    if kind in ALWAYS:
        return ALWAYS[kind]
    if "SteadyEditSTAM" in classes and not classes & {"SteadyEditRAVE", "SteadyEditNormTune"}:
        return "ei2 tuning" if kind == TUNE else "ei2 sampling" if kind in (*SAMPLERS, INVERT) else ""
    return ""


def _steps(graph: Graph, node: Mapping[str, Any]) -> int | None:
    """Steps of a training, or evaluations of a sampler that takes its noise levels from another node."""
    steps = node["inputs"].get("steps")
    if steps is None and is_link(sigmas := node["inputs"].get("sigmas")):
        steps = graph[sigmas[0]]["inputs"].get("steps")
    return steps if isinstance(steps, int) else None
