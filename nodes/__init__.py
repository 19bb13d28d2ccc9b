"""The nodes, one file per stage: a schema, the unpacking of its inputs, one call. No maths."""

from __future__ import annotations

from typing import Any


def node_list() -> list[type]:
    """All node classes, in the order of the pipeline. Needs ``comfy_api`` (the host's, or a stand-in)."""
    from . import adaptation, attach, blend, dape, dape_apply, gather_swap, inversion, rave, root, toy, tuning, video, weights

    modules = (toy, video, attach, gather_swap, rave, root, adaptation, tuning, dape, dape_apply, weights, inversion, blend)
    return [node for module in modules for node in module.NODES]


def extension() -> Any:
    """The host's view of this pack."""
    from comfy_api.latest import ComfyExtension

    class SteadyEditExtension(ComfyExtension):
        async def get_node_list(self) -> list[type]:
            return node_list()

    return SteadyEditExtension()
