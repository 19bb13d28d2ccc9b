"""Whether a graph may be edited window by window: exact, or refused with the node's name.

Nodes and methods say it themselves. A node class may have

    frame_by_frame   True: each frame of its result depends on that frame of its inputs alone. A mapping of inputs
                     to values: where they have these. Without it, the node is taken to look at the whole clip.
    draws_noise      it adds noise from a seed: alike for all windows only where all frames start from one noise.
    METHOD           slug of the method that it attaches, or ``methods_of(name)`` for those of a file;
                     ``methods.registry.traits`` says the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from .. import backends
from ..diffusion.samplers import STOCHASTIC
from ..methods import registry
from .graph import Graph, GraphError, is_link, label

SEED_BEHAVIOR, NO_NOISE = "LatentBatchSeedBehavior", "DisableNoise"
ADVICE = "run it without --stream."


def check_methods(graph: Graph, nodes: Mapping[str, type[Any]]) -> None:
    """Refuse methods by which every frame looks at the whole clip.

    Raises:
        GraphError: a node attaches one, or loads a file with one.
    """
    for key, node in graph.items():
        if node["class_type"] in nodes:
            _check_declared(graph, key, nodes[node["class_type"]])


def check_nodes(graph: Graph, nodes: Mapping[str, type[Any]], seeing: set[str]) -> None:
    """Refuse nodes that look at the whole clip.

    Args:
        seeing: ids of the nodes that are handed a window's frames, without the sources.

    Raises:
        GraphError: a node mixes frames, draws noise that differs by window, or is not known not to.
    """
    for key in sorted(seeing, key=list(graph).index):
        node, kind = graph[key], nodes[graph[key]["class_type"]]
        fits = getattr(kind, "frame_by_frame", False)
        if isinstance(fits, Mapping):
            wrong = {name: value for name, value in node["inputs"].items() if name in fits and value != fits[name]}
            for name, value in wrong.items():
                raise GraphError(f"--stream: {label(graph, key)}: {name} {value} looks at other frames of the clip; "
                                 f"set it to {fits[name]}, or {ADVICE}")
        elif not fits:
            raise GraphError(f"--stream: {label(graph, key)} looks at the whole clip, so it cannot be edited in "
                             f"windows; {ADVICE}")
        _check_noise(graph, key, kind)


def _check_declared(graph: Graph, key: str, kind: type) -> None:
    """Refuse methods that a node's class, or the file that it loads, says to attach."""
    where = label(graph, key)
    if hasattr(kind, "METHOD"):
        _check_method(where, kind.METHOD)
    if hasattr(kind, "methods_of"):
        try:
            held = kind.methods_of(graph[key]["inputs"].get("name", ""))
        except (OSError, ValueError) as error:
            raise GraphError(f"{where}: {error}") from error
        for method in held:
            _check_method(where, method)
            if registry.traits(method).uses_reference_frames:
                raise GraphError(f"--stream: {where} has {method} out of a file, whose frames are those of another "
                                 f"clip; attach it by its node, or {ADVICE}")


def _check_method(where: str, method: str) -> None:
    if not registry.traits(method).exact_in_windows:
        raise GraphError(f"--stream: {where} has {method}, in which every frame looks at the whole clip, so it cannot "
                         f"be edited in windows; {ADVICE}")


def _check_noise(graph: Graph, key: str, kind: type) -> None:
    """Refuse noise that a frame would get by its place in the window."""
    inputs = graph[key]["inputs"]
    samplers = [inputs, *(graph[value[0]]["inputs"] for value in inputs.values() if is_link(value))]
    for name in (given.get("sampler_name") for given in samplers):
        if name in STOCHASTIC:
            raise GraphError(f"--stream: {label(graph, key)}: the sampler {name} draws new noise at every step, which "
                             f"would differ by window; use euler, or {ADVICE}")
    source = graph[inputs["noise"][0]]["class_type"] if is_link(inputs.get("noise")) else None
    if not getattr(kind, "draws_noise", False) or inputs.get("add_noise") is False or source == NO_NOISE:
        return
    latent = inputs.get("latent_image")
    before = graph[latent[0]] if is_link(latent) else None
    one = before and before["class_type"] == SEED_BEHAVIOR and before["inputs"].get("seed_behavior") == "fixed"
    if not one:
        raise GraphError(f"--stream: {label(graph, key)} gives every frame noise of its own, by its place in the "
                         f"window; put {SEED_BEHAVIOR} (fixed) before its latent_image, or {ADVICE}")


def check_values(graph: Graph, results: Mapping[str, tuple], seeing: set[str]) -> None:
    """Refuse results, the same for every window, that belong to more than one frame or mix frames.

    Raises:
        GraphError: a node that sees a window is handed one.
    """
    for key in seeing:
        for name, link in graph[key]["inputs"].items():
            if not is_link(link) or link[0] not in results:
                continue
            value, where = results[link[0]][link[1]], label(graph, link[0])
            for model in _models(value):
                for attachment in getattr(model, "attachments", ()):
                    _check_method(where, attachment.method)
                if not hasattr(model, "attachments"):
                    raise GraphError(f"--stream: {where} gives a model of whole clips, in which frames depend on each "
                                     f"other; {ADVICE}")
            frames = max(_frames(value), default=1)
            if frames > 1:
                raise GraphError(f"--stream: {where} gives {frames} frames to input '{name}' of {label(graph, key)}, "
                                 "the same for every window; take them from a video file, or give one for all.")


def _models(value: Any) -> list[Any]:
    """MODELs in a result: itself, that of a GUIDER, a VAE of clips."""
    from ..backends.diffusers import DiffusersModel
    from ..backends.diffusers.toy_wan import VideoAutoencoder
    from ..backends.diffusers.video import DiffusersVideoModel

    held = getattr(value, "model", value)
    return [held] if isinstance(held, (DiffusersModel, DiffusersVideoModel, VideoAutoencoder)) else []


def _frames(value: Any) -> list[int]:
    """Numbers of frames of the tensors in an IMAGE, MASK, LATENT, CONDITIONING or GUIDER."""
    if isinstance(value, torch.Tensor):
        return [value.shape[0]] if value.ndim >= 3 else []
    if isinstance(value, Mapping):
        return [count for held in value.values() for count in _frames(held)]
    if isinstance(value, (list, tuple)):
        return [count for held in value for count in _frames(held)]
    if hasattr(value, "hint"):
        return [*_frames(value.hint), *_frames(value.previous)]
    if hasattr(value, "positive"):
        return [count for held in (value.positive, value.negative, value.middle) for count in _frames(held)]
    return []


def told_apart(value: Any) -> Any:
    """What of a result ``methods.content_hash`` can tell apart: weights by fingerprint, other objects by class."""
    if isinstance(value, Mapping):
        return {key: told_apart(held) for key, held in value.items()}
    if isinstance(value, (list, tuple)):
        return [told_apart(held) for held in value]
    if value is None or isinstance(value, (torch.Tensor, bool, int, float, str)):
        return value
    models = [model for model in _models(value) if hasattr(backends.of(model), "fingerprint")]
    return [type(value).__name__, *(backends.of(model).fingerprint(model) for model in models)]
