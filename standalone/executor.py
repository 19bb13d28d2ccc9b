"""Run an API-format graph: check it, order it, call its nodes.

Outputs are asked for and everything that they need runs once, depth first. There is no
cache: what is dear to make twice (tuning) keeps its own.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch

from .graph import Graph, GraphError, is_link, label

#: What a node raises when its input is at fault: shown as one sentence, without a traceback.
USER_ERRORS = (ValueError, TypeError, OSError, ArithmeticError, MemoryError, torch.OutOfMemoryError)
NUMBERS: dict[str, Any] = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool}


@dataclass
class Run:
    """Results and seconds of every node that ran, by id."""

    results: dict[str, tuple] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def order_of(graph: Graph, nodes: Mapping[str, type[Any]]) -> list[str]:
    """Ids of the output nodes and of all that they need, each after what it needs.

    Raises:
        GraphError: an unknown class, a link to nowhere, a circle, or nothing to put out.
    """
    for key, node in graph.items():
        if node["class_type"] not in nodes:
            raise GraphError(f"{label(graph, key)}: standalone does not know {node['class_type']}; use --host comfy.")
    order: dict[str, None] = {}
    above: dict[str, Iterator[tuple[str, Any]]] = {}

    def visit(key: str) -> None:
        # A stack of its own: a chain of a thousand nodes is deeper than Python goes.
        above[key] = iter(graph[key]["inputs"].items())
        while above:
            key, inputs = next(reversed(above.items()))
            link = next(((name, value[0]) for name, value in inputs if is_link(value) and value[0] not in order), None)
            if link is None:
                del above[key]
                order[key] = None
            elif link[1] not in graph:
                raise GraphError(f"{label(graph, key)}: input '{link[0]}' is linked to node {link[1]}, "
                                 "which is not there.")
            elif link[1] in above:
                raise GraphError(f"{label(graph, link[1])}: its inputs lead back to itself.")
            else:
                above[link[1]] = iter(graph[link[1]]["inputs"].items())

    for key, node in graph.items():
        if key not in order and nodes[node["class_type"]].GET_SCHEMA().is_output_node:
            visit(key)
    if not order:
        raise GraphError("the graph has no output node (such as SaveVideo), so there is nothing to run.")
    return list(order)


def check_link(graph: Graph, key: str, wanted: Any, value: list, nodes: Mapping[str, type[Any]]) -> None:
    """Raise GraphError where a link gives no such output, or one of another type."""
    source, index = value
    outputs = nodes[graph[source]["class_type"]].GET_SCHEMA().outputs
    where = f"{label(graph, key)}: input '{wanted.id}'"
    if not 0 <= index < len(outputs):
        raise GraphError(f"{where} asks for output {index} of {label(graph, source)}, which has {len(outputs)}.")
    given = outputs[index].io_type
    if given not in wanted.io_type.split(",") and "*" not in (given, wanted.io_type):
        raise GraphError(f"{where} takes {wanted.io_type}, but {label(graph, source)} gives {given}.")


def check_value(where: str, wanted: Any, value: Any) -> None:
    """Raise GraphError where a widget's value is of the wrong kind or out of its range."""
    if wanted.io_type == "COMBO":
        # An empty list of options is one that a folder fills; the node itself says what is missing.
        if wanted.options and value not in wanted.options:
            raise GraphError(f"{where} is '{value}'; it takes {', '.join(map(str, wanted.options))}.")
        return
    if wanted.io_type not in NUMBERS:
        raise GraphError(f"{where} needs a link to a {wanted.io_type}, but has {value!r}.")
    kind = NUMBERS[wanted.io_type]
    if not isinstance(value, kind) or (isinstance(value, bool) and wanted.io_type != "BOOLEAN"):
        raise GraphError(f"{where} takes a value of type {wanted.io_type}, but has {value!r}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise GraphError(f"{where} is {value}, which is no number to work with.")
    low, high = wanted.settings.get("min"), wanted.settings.get("max")
    if low is not None and value < low:
        raise GraphError(f"{where} is {value}; it takes {low} or more.")
    if high is not None and value > high:
        raise GraphError(f"{where} is {value}; it takes {high} or less.")


def check(graph: Graph, order: list[str], nodes: Mapping[str, type[Any]]) -> None:
    """Raise GraphError, naming node and input, where an input is missing, unknown or does not fit."""
    for key in order:
        node, values = nodes[graph[key]["class_type"]], graph[key]["inputs"]
        inputs = {wanted.id: wanted for one in node.GET_SCHEMA().inputs for wanted in getattr(one, "sockets", [one])}
        own = getattr(node, "validate_inputs", None)
        checked = set(inspect.signature(own).parameters) if own else set()
        for name in values.keys() - inputs.keys():
            raise GraphError(f"{label(graph, key)} has no input '{name}'; it has {', '.join(inputs) or 'none'}.")
        for name, wanted in inputs.items():
            where = f"{label(graph, key)}: input '{name}'"
            if name not in values:
                if wanted.required:
                    raise GraphError(f"{where} is missing.")
            elif is_link(values[name]):
                check_link(graph, key, wanted, values[name], nodes)
            elif name not in checked:
                check_value(where, wanted, values[name])
        if own:
            _check_own(label(graph, key), own, values)


def _check_own(where: str, own: Callable[..., Any], values: Mapping[str, Any]) -> None:
    """Ask a node's own ``validate_inputs``, where the graph has the values that it wants to see."""
    wanted = inspect.signature(own).parameters
    given = {name: values[name] for name in wanted if name in values and not is_link(values[name])}
    if any(p.default is p.empty and p.name not in given and p.kind is not p.VAR_KEYWORD for p in wanted.values()):
        return
    try:
        answer = own(**given)
    except USER_ERRORS as error:
        raise GraphError(f"{where}: {error}") from error
    if answer is not True:
        raise GraphError(f"{where}: {answer}")


def nested(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """A node's inputs as the host hands them over: those of a growing one, ``name.socket``, in a dict of that name."""
    found: dict[str, Any] = {}
    for name, value in inputs.items():
        of, dot, socket = name.partition(".")
        if dot:
            found.setdefault(of, {})[socket] = value
        else:
            found[name] = value
    return found


def call(node: type[Any], inputs: dict[str, Any], key: str, graph: Graph) -> tuple:
    """Run one node and return its outputs."""
    hidden = SimpleNamespace(unique_id=key, prompt=graph, extra_pnginfo=None)
    bound: Any = type(node.__name__, (node,), {"hidden": hidden})
    out = bound.execute(**nested(inputs))
    if inspect.iscoroutine(out):
        out = asyncio.run(out)
    return tuple(out.args) if hasattr(out, "args") else tuple(out or ())


def execute(
    graph: Graph,
    nodes: Mapping[str, type[Any]],
    done: Callable[[str, float], None] | None = None,
    *,
    known: Mapping[str, tuple] | None = None,
    only: Collection[str] | None = None,
    given: Callable[[str, tuple], None] | None = None,
) -> Run:
    """Check the whole graph, then run what its output nodes need.

    Args:
        graph: nodes by id, API format.
        nodes: node classes by ``class_type``.
        done: called with id and seconds after every node.
        known: results of nodes that need not run, by id.
        only: run just these nodes, of which each has its inputs among these or ``known``.
        given: called with id and results after every node; may raise to end the run.

    Raises:
        GraphError: the graph does not fit, or a node refused its inputs; one sentence that
            names the node.
    """
    order = order_of(graph, nodes)
    check(graph, order, nodes)
    run = Run(dict(known or {}))
    for key in order:
        if key in run.results or (only is not None and key not in only):
            continue
        node = nodes[graph[key]["class_type"]]
        inputs = {
            name: run.results[value[0]][value[1]] if is_link(value) else value
            for name, value in graph[key]["inputs"].items()
        }
        start = time.perf_counter()
        try:
            # Not inference mode: its tensors could not be saved for the backward pass of tuning.
            with torch.no_grad():
                run.results[key] = call(node, inputs, key, graph)
        except USER_ERRORS as error:
            raise GraphError(f"{label(graph, key)}: {error}") from error
        run.seconds[key] = time.perf_counter() - start
        if done:
            done(key, run.seconds[key])
        if given:
            given(key, run.results[key])
    return run
