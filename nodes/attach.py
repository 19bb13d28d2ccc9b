"""Attach a method to a MODEL. Untuned, each of these changes what its name says and no weight of the model."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .words import words

CATEGORY = "SteadyEdit/attach"


def attached(model: Any, method: str, **config: Any) -> io.NodeOutput:
    """A clone of the MODEL with one method more, as a node's output."""
    return io.NodeOutput(with_method(model, method, **config))


def with_method(model: Any, method: str, **config: Any) -> Any:
    """A clone of the MODEL with one method more."""
    import torch

    from .. import backends
    from ..methods import registry
    from ..methods.tuned_weights import check_untuned

    backend = backends.of(model)
    check_untuned(backend, model, method)
    # New weights must be ordinary tensors: those of inference mode can never be trained.
    with torch.inference_mode(False):
        return backend.attach(model, registry.build_on(backend, model, method, config))


UNETS = "A Stable Diffusion 1.x, 2.x or SDXL model (U-Net). It is not changed."


def model_input(tooltip: str = UNETS) -> io.Model.Input:
    return io.Model.Input("model", tooltip=tooltip)


def model_output() -> io.Model.Output:
    return io.Model.Output(display_name="model", tooltip="The model with the method attached; chain more nodes to it.")


class STAM(io.ComfyNode):
    METHOD = "stam"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditSTAM",
            display_name="STAM: temporal attention (EI2)",
            category=CATEGORY,
            description="EI2's shift-restricted temporal attention after every transformer block. It starts as the "
            "identity: tune it on the clip with One-Shot Tune.",
            inputs=[
                model_input(),
                io.Boolean.Input("recenter", default=True, optional=True, tooltip="Centre what the attention returns "
                                 "once more, so that the mean over the frames stays exactly as it was, as the paper "
                                 "claims. Off: its equation 9 to the letter."),
            ],
            outputs=[model_output()],
        )

    @classmethod
    def execute(cls, model, recenter=True) -> io.NodeOutput:
        return attached(model, cls.METHOD, recenter=recenter)


class FFAM(io.ComfyNode):
    METHOD = "ffam"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditFFAM",
            display_name="FFAM: fine-coarse frame attention (EI2)",
            category=CATEGORY,
            description="Self-attention in which every frame also sees a coarse version of all other frames. "
            "Works untuned; One-Shot Tune adapts its queries to the clip.",
            inputs=[
                model_input(),
                io.Int.Input("ratio", default=2, min=1, max=16, tooltip="How many tokens a side of the other frames "
                             "are averaged into one. 1 is full attention over the clip; the paper uses 2 or 4."),
                io.Combo.Input("blocks", options=["all", "down", "middle", "up"], default="all",
                               tooltip="Which blocks of the U-Net get it. The paper: all."),
            ],
            outputs=[model_output()],
        )

    @classmethod
    def execute(cls, model, ratio, blocks) -> io.NodeOutput:
        return attached(model, cls.METHOD, ratio=ratio, blocks=blocks)


class SparseCausal(io.ComfyNode):
    METHOD = "sparse-causal"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditSparseCausal",
            display_name="Sparse-causal attention (Tune-A-Video)",
            category=CATEGORY,
            description="Self-attention in which every frame sees the first and the previous frame: Tune-A-Video's "
            "counterpart to FFAM. Attach one of the two.",
            inputs=[model_input()],
            outputs=[model_output()],
        )

    @classmethod
    def execute(cls, model) -> io.NodeOutput:
        return attached(model, cls.METHOD)


class TemporalAttention(io.ComfyNode):
    METHOD = "temporal-attention"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditTemporalAttention",
            display_name="Temporal attention (Tune-A-Video)",
            category=CATEGORY,
            description="Plain attention over frames after every transformer block: Tune-A-Video's counterpart to "
            "STAM. It starts as a small constant shift: tune it on the clip with One-Shot Tune.",
            inputs=[
                model_input(),
                io.Boolean.Input("joint_norms", default=False, optional=True, tooltip="Normalise all frames together "
                                 "in residual blocks and before the output, as the authors' code does. Off: each "
                                 "frame by itself, as the model was trained."),
            ],
            outputs=[model_output()],
        )

    @classmethod
    def execute(cls, model, joint_norms=False) -> io.NodeOutput:
        if joint_norms:
            model = attached(model, "joint-norms").args[0]
        return attached(model, cls.METHOD)


class SimDA(io.ComfyNode):
    METHOD = "simda"
    WORDS = words("simda", "adapter", "latent shift", "video edit", "consistent frames", keys="what a frame sees",
                  advanced="keys")

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditSimDA",
            display_name="SimDA: adapters and latent shift",
            category=CATEGORY,
            description="Small adapters within and across frames, and self-attention whose keys come from several "
            "frames. The adapters start as the identity: tune them on the clip with One-Shot Tune.",
            inputs=[
                model_input(),
                io.Combo.Input("keys", options=["official", "equation"], default="official", optional=True,
                               tooltip="What a frame sees. official: the previous frame and itself, tokens of earlier "
                               "frames in both, as the authors' code; equation: itself, and itself with tokens of "
                               "earlier frames, as the paper."),
            ],
            outputs=[model_output()],
        )

    @classmethod
    def execute(cls, model, keys="official") -> io.NodeOutput:
        return attached(model, cls.METHOD, keys=keys)


NODES = [STAM, FFAM, SparseCausal, TemporalAttention, SimDA]
