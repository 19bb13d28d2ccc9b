"""What DAPE trained, put onto a model at a strength of the user's choice."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .checks import tuned_weights
from .dape import CATEGORY
from .tuning import Weights


def apply_schema(node_id: str, title: str, what: str) -> io.Schema:
    return io.Schema(
        node_id=node_id,
        display_name=title,
        category=CATEGORY,
        description=f"Puts {what} onto a model, at a strength of your choice. The model may carry other methods and "
        "LoRAs than the one that was tuned; another architecture is refused.",
        inputs=[
            io.Model.Input("model", tooltip="A model of the architecture that the weights were tuned on. It is not "
                           "changed."),
            Weights.Input("weights", tooltip=f"With {what}, from its training or Load Tuned Weights."),
            io.Float.Input("strength", default=1.0, min=-10.0, max=10.0, step=0.05,
                           tooltip="1 is as trained, 0 is bit for bit the model that comes in."),
        ],
        outputs=[io.Model.Output(display_name="model", tooltip=f"The model with {what}.")],
    )  # fmt: skip


def applied(model: Any, weights: Any, strength: float, method: str) -> io.NodeOutput:
    """A clone of the MODEL with one method of the weights."""
    import torch

    from .. import backends
    from ..methods.tuned_weights import apply_tuned

    # New weights must be ordinary tensors: those of inference mode can never be trained.
    with torch.inference_mode(False):
        model = apply_tuned(backends.of(model), model, tuned_weights(weights), strength=strength, only=(method,))
    return io.NodeOutput(model)


class ApplyNormTune(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return apply_schema(node_id="SteadyEditApplyNormTune", title="Apply Norm-Tune (DAPE)", what="tuned norms")

    @classmethod
    def execute(cls, model, weights, strength) -> io.NodeOutput:
        return applied(model, weights, strength, "norm-tune")


class ApplyVisualAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return apply_schema(node_id="SteadyEditApplyVisualAdapter", title="Apply Visual Adapter (DAPE)",
                            what="a visual adapter")  # fmt: skip

    @classmethod
    def execute(cls, model, weights, strength) -> io.NodeOutput:
        return applied(model, weights, strength, "visual-adapter")


NODES = [ApplyNormTune, ApplyVisualAdapter]
