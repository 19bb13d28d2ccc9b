"""A graph on the diffusers backend, without a host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files import places
from . import host_api
from .executor import execute
from .graph import Graph


@dataclass
class StandaloneRun:
    """Files written, seconds by node id, and every node's results."""

    saved: list[Path] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    results: dict[str, tuple] = field(default_factory=dict)


def known_nodes() -> dict[str, type[Any]]:
    """This pack's nodes and the stand-ins for core nodes, by ``class_type``."""
    with host_api.installed():
        from ..nodes import node_list
        from . import core_control, core_lora, core_nodes, core_sampling

        made: list[Any] = node_list()
        stand_ins = {**core_nodes.NODES, **core_sampling.NODES, **core_control.NODES, **core_lora.NODES}
        return {**stand_ins, **{node.GET_SCHEMA().node_id: node for node in made}}


def run_standalone(graph: Graph, output: Path, report: Callable[[str, float], None] | None = None) -> StandaloneRun:
    """Run a graph here.

    Args:
        graph: API format.
        output: folder that saving nodes write into; files that the graph names are looked
            for in the working folder.
        report: called with id and seconds after every node.

    Raises:
        GraphError: the graph does not fit, or a node refused its inputs; one sentence.
    """
    nodes = known_nodes()
    place = places.Folders(input=Path.cwd(), output=output)
    with host_api.installed(), places.using(place):
        run = execute(graph, nodes, report)
    return StandaloneRun(place.saved, run.seconds, run.results)
