"""A graph made small by the values of its widgets alone: few frames, small pictures, short trainings."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from ..graph import Graph, is_link

#: Shorter side of every picture; the latents of a U-Net's four levels are then 8, 4, 2 and 1 wide.
SIDE = 64
#: What a video transformer's patches divide.
MULTIPLE = 16
#: Frames of a graph for a video model (4N + 1), of one that lays frames out in grids, and of all others.
VIDEO_FRAMES, GRID_FRAMES, FRAMES = 9, 8, 4
#: Classes that need so many frames.
VIDEO = ("SteadyEditMaskSample", "SteadyEditMaskCondition", "SteadyEditFlowEdit", "WanVaceToVideo")
GRID = ("SteadyEditRAVE",)
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
    "SteadyEditFlowEdit": {"n_max": 2},
}
#: Nodes with a width and a height of their own.
SIZED = ("ImageScale", "SteadyEditFitFrames", "SteadyEditCropToMask", "EmptyImage", "SolidMask")
#: Steps of a run that two samplers share; where one hands over to the other is scaled along.
SHARED_STEPS = 4
#: Nodes that bring a picture to a million pixels whatever widgets say: an image editor around them takes minutes.
LARGE = ("FluxKontextImageScale",)
SWITCH = "ComfySwitchNode"
#: Rates that let a training of two steps be seen in the picture.
RATES = {"SteadyEditMaskLoRATrain": 1e-2, "SteadyEditOneShotTune": 1e-3, "SteadyEditNormTune": 1e-2,
         "SteadyEditVisualAdapterTrain": 1e-2, "SteadyEditTestTimeAdapt": 1e-2}


def frames_of(graph: Graph) -> int:
    """How many frames the graph is rehearsed with."""
    classes = {node["class_type"] for node in graph.values()}
    return VIDEO_FRAMES if classes & {*VIDEO} else GRID_FRAMES if classes & {*GRID} else FRAMES


def reduced(graph: Graph) -> Graph:
    """The same nodes and links with smaller values; the given graph stays as it is."""
    frames, small = frames_of(graph), deepcopy(graph)
    for node in small.values():
        kind, inputs = node["class_type"], node["inputs"]
        most = {**MOST.get(kind, {}),
                **({"count": frames, "size": SIDE} if kind == "SteadyEditLoadFrames" else {}),
                **({"every": frames} if kind == "SteadyEditTextMask" else {})}
        for name, value in most.items():
            _cap(small, inputs, name, value)
        _special(kind, inputs)
    _without_large(small)
    return small


def _cap(graph: Graph, inputs: dict[str, Any], name: str, most: float) -> None:
    """Lower a widget, or those of the numbers and switches that it is linked to."""
    value: Any = inputs.get(name)
    if _is_number(value):
        inputs[name] = min(value, most)
    elif is_link(value):
        source = graph[value[0]]
        places = {"PrimitiveInt": ("value",), SWITCH: ("on_false", "on_true")}.get(source["class_type"], ())
        for place in places:
            _cap(graph, source["inputs"], place, most)


def _special(kind: str, inputs: dict[str, Any]) -> None:
    """What is not a matter of a largest value."""
    if kind in RATES and _is_number(inputs.get("learning_rate")):
        inputs["learning_rate"] = RATES[kind]
    if "reuse" in inputs and not is_link(inputs["reuse"]):
        inputs["reuse"] = False
    if kind in SIZED and all(_is_number(inputs.get(n)) for n in ("width", "height")):
        inputs["width"], inputs["height"] = scaled(inputs["width"], inputs["height"])
    if kind == "KSamplerAdvanced" and _is_number(inputs.get("steps")):
        steps = inputs["steps"]
        inputs["steps"] = min(steps, SHARED_STEPS)
        for name in ("start_at_step", "end_at_step"):
            if _is_number(inputs.get(name)) and 0 < inputs[name] < steps:
                inputs[name] = max(1, round(inputs[name] * inputs["steps"] / steps))


def _without_large(graph: Graph) -> None:
    """Turn the switch between an image editor of a fixed, large size and a picture of the user's to the picture."""
    for node in graph.values():
        inputs = node["inputs"]
        if node["class_type"] != SWITCH or not (is_link(inputs.get("on_true")) and is_link(inputs.get("on_false"))):
            continue
        if graph[inputs["on_true"][0]]["class_type"] == "LoadImage" and any(
                graph[key]["class_type"] in LARGE for key in above(graph, inputs["on_false"][0])):
            switch = inputs["switch"]
            if is_link(switch):
                graph[switch[0]]["inputs"]["value"] = True
            else:
                inputs["switch"] = True


def above(graph: Graph, key: str, chosen: bool = False) -> set[str]:
    """A node and all that it takes values from; with ``chosen`` only by the branch that a switch is set to."""
    found, waiting = set(), [key]
    while waiting:
        at = waiting.pop()
        if at not in found:
            found.add(at)
            waiting += [value[0] for name, value in graph[at]["inputs"].items()
                        if is_link(value) and not (chosen and _is_off(graph, graph[at], name))]
    return found


def _is_off(graph: Graph, node: dict[str, Any], name: str) -> bool:
    if node["class_type"] != SWITCH or name == "switch":
        return False
    switch = node["inputs"]["switch"]
    if is_link(switch):
        switch = graph[switch[0]]["inputs"].get("value")
    return isinstance(switch, bool) and name != ("on_true" if switch else "on_false")


def running(graph: Graph) -> set[str]:
    """Nodes that run as the graph's switches stand."""
    linked = {value[0] for node in graph.values() for value in node["inputs"].values() if is_link(value)}
    return set().union(*(above(graph, key, chosen=True) for key in graph if key not in linked))


def scaled(width: int, height: int) -> tuple[int, int]:
    """Width and height of nearly the same proportions, the shorter one ``SIDE``; 0, which follows the other, stays."""
    if not width or not height:
        return SIDE * bool(width), SIDE * bool(height)
    shorter = min(width, height)
    return (max(MULTIPLE, round(width * SIDE / shorter / MULTIPLE) * MULTIPLE),
            max(MULTIPLE, round(height * SIDE / shorter / MULTIPLE) * MULTIPLE))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
