"""A pack that the ComfyUI started by ``verify`` has beside this one: what each node takes, and a few frames.

The host imports this folder by itself, so that nothing here may import the rest of the pack. It measures; it changes
nothing of what nodes do.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web
from server import PromptServer

from .meter import NodeMeter, about_device


class KeepFrames:
    """Writes a few frames of a clip before and after its edit, and how many there are of which size."""

    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "keep", "SteadyEdit/verify", True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"before": ("IMAGE", {}), "after": ("IMAGE", {}), "count": ("INT", {}),
                             "path": ("STRING", {})}}

    def keep(self, before: Any, after: Any, count: int, path: str) -> tuple:
        import torch
        from safetensors.torch import save_file

        def some(clip: torch.Tensor) -> torch.Tensor:
            places = torch.linspace(0, len(clip) - 1, min(count, len(clip))).round().long()
            return clip[places, ..., :3].float().cpu().contiguous()

        save_file({"before": some(before), "after": some(after), "size": torch.tensor(after.shape[:3])}, path)
        return ()


def serve() -> None:
    """Measure from now on, and answer for what was measured."""
    server = PromptServer.instance
    meter = NodeMeter()
    send = server.send_sync

    def noted(event: str, data: Any, sid: str | None = None) -> Any:
        if event == "executing":
            meter.begin(data.get("display_node") or data.get("node"))
        return send(event, data, sid)

    server.send_sync = noted

    @server.routes.get("/steadyedit/meter")
    async def measured(request: web.Request) -> web.Response:
        meter.begin(None)
        return web.json_response({"nodes": meter.nodes, "device": about_device()})


NODE_CLASS_MAPPINGS = {"SteadyEditKeepFrames": KeepFrames}
serve()
