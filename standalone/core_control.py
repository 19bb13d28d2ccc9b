"""Stand-ins for the host's core nodes around ControlNets, same ids, inputs and meaning."""

from __future__ import annotations

from typing import Any

from ..toyworld.models.control import edges
from .host_api import ComfyNode, NodeOutput, schema

SHARE = ("FLOAT", {"min": 0.0, "max": 1.0})
THRESHOLD = ("FLOAT", {"min": 0.01, "max": 0.99})


class Canny(ComfyNode):
    frame_by_frame = True

    @classmethod
    def define_schema(cls):
        return schema("Canny", {"image": "IMAGE", "low_threshold": THRESHOLD, "high_threshold": THRESHOLD}, "IMAGE")

    @classmethod
    def execute(cls, image, low_threshold, high_threshold):
        return NodeOutput(edges(image, low_threshold, high_threshold))


class ControlNetApplyAdvanced(ComfyNode):
    frame_by_frame = True

    @classmethod
    def define_schema(cls):
        inputs = {
            "positive": "CONDITIONING", "negative": "CONDITIONING", "control_net": "CONTROL_NET", "image": "IMAGE",
            "strength": ("FLOAT", {"min": 0.0, "max": 10.0}), "start_percent": SHARE, "end_percent": SHARE,
            "vae": ("VAE", {"optional": True}),
        }  # fmt: skip
        return schema("ControlNetApplyAdvanced", inputs, "CONDITIONING CONDITIONING")

    @classmethod
    def execute(cls, positive, negative, control_net, image, strength, start_percent, end_percent, vae=None):
        if strength == 0:
            return NodeOutput(positive, negative)

        def under(conditioning: list[list[Any]]) -> list[list[Any]]:
            return [[text, {**values, "control": control_net.applied(
                image, strength, start_percent, end_percent, values.get("control"))}] for text, values in conditioning]

        return NodeOutput(under(positive), under(negative))


NODES = {node.__name__: node for node in (Canny, ControlNetApplyAdvanced)}
