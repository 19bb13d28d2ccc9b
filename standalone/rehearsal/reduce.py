"""A graph made small by the values of its widgets alone: few frames, small pictures, short trainings."""

from __future__ import annotations

from typing import Any

from ..graph import Graph, is_link

#: Shorter side of every picture; the latents of a U-Net's four levels are then 8, 4, 2 and 1 wide.
SIDE = 64
#: What a video transformer's patches divide.
MULTIPLE = 16
#: Frames of a graph for a video model (4N + 1), of one that lays frames out in grids, and of all others.
VIDEO_FRAMES, GRID_FRAMES, FRAMES = 9, 8, 4
#: Classes that need so many frames.
VIDEO, GRID = ("SteadyEditMaskSample", "SteadyEditMaskCondition"), ("SteadyEditRAVE",)
#: The largest value that a widget keeps.
MOST: dict[str, dict[str, int]] = {
    "SteadyEditOneShotTune": {"steps": 2},
    "SteadyEditNormTune": {"steps": 2},
    "SteadyEditVisualAdapterTrain": {"steps": 2, "bottleneck": 8},
    "SteadyEditMaskLoRATrain": {"steps": 2},
    "SteadyEditTestTimeAdapt": {"steps": 2, "variants": 4},
    "SteadyEditRootCandidates": {"count": 2, "steps": 3},
    "SteadyEditDDIMInversion": {"steps": 3},
    "SteadyEditGatherSwap": {"group": 3},
    "SteadyEditRAVE": {"grid": 2},
    "SteadyEditMaskSample": {"clip_length": 5},
    "SteadyEditFrameSample": {"frame": 4},
    "BasicScheduler": {"steps": 3},
    "KSampler": {"steps": 2},
}
#: Rates that let a training of two steps be seen in the picture.
RATES = {"SteadyEditMaskLoRATrain": 1e-2, "SteadyEditOneShotTune": 1e-3, "SteadyEditNormTune": 1e-2,
         "SteadyEditVisualAdapterTrain": 1e-2, "SteadyEditTestTimeAdapt": 1e-2}


def frames_of(graph: Graph) -> int:
    """How many frames the graph is rehearsed with."""
    classes = {node["class_type"] for node in graph.values()}
    return VIDEO_FRAMES if classes & {*VIDEO} else GRID_FRAMES if classes & {*GRID} else FRAMES


def reduced(graph: Graph) -> Graph:
    """The same nodes and links with smaller values; the given graph stays as it is."""
    frames = frames_of(graph)
    return {key: {**node, "inputs": _smaller(node["class_type"], node["inputs"], frames)}
            for key, node in graph.items()}


def _smaller(kind: str, inputs: dict[str, Any], frames: int) -> dict[str, Any]:
    made = dict(inputs)
    most = {**MOST.get(kind, {}), **({"count": frames, "size": SIDE} if kind == "SteadyEditLoadFrames" else {}),
            **({"every": frames} if kind == "SteadyEditTextMask" else {})}
    for name, value in most.items():
        if _is_number(made.get(name)):
            made[name] = min(made[name], value)
    if kind in RATES and _is_number(made.get("learning_rate")):
        made["learning_rate"] = RATES[kind]
    if "reuse" in made and not is_link(made["reuse"]):
        made["reuse"] = False
    if kind == "ImageScale" and _is_number(made.get("width")) and _is_number(made.get("height")):
        made["width"], made["height"] = scaled(made["width"], made["height"])
    return made


def scaled(width: int, height: int) -> tuple[int, int]:
    """Width and height of nearly the same proportions, the shorter one ``SIDE``; 0, which follows the other, stays."""
    if not width or not height:
        return SIDE * bool(width), SIDE * bool(height)
    shorter = min(width, height)
    return (max(MULTIPLE, round(width * SIDE / shorter / MULTIPLE) * MULTIPLE),
            max(MULTIPLE, round(height * SIDE / shorter / MULTIPLE) * MULTIPLE))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
