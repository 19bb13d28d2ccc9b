"""TokenFlow, as a change of the MODEL that every sampler on the inversion's noise levels takes."""

from __future__ import annotations

from comfy_api.latest import io

from .attach import CATEGORY, attached, model_input, model_output
from .words import words


class TokenFlow(io.ComfyNode):
    METHOD = "tokenflow"
    WORDS = words("tokenflow", "video edit", "edit video", "consistent", "consistent video", "flicker", "plug and play",
                  "pnp", "restyle video", "zero shot video", "no training", "keyframes",
                  inverted="inverted latent", spacing="frames per keyframe", injection="keep the source's structure",
                  attention_steps="keep its attention until (part of the steps)",
                  residual_steps="keep its features until (part of the steps)",
                  advanced="attention_steps residual_steps chunk")  # fmt: skip

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditTokenFlow",
            display_name="TokenFlow: keyframes carried to all frames",
            category=CATEGORY,
            description="A few keyframes, others at every step, are edited together; every other frame takes their "
            "features over along the source's own motion. Reads the clip's DDIM inversion at every step. Sample with "
            "the inversion's latent and sigmas.",
            inputs=[
                model_input(),
                io.Latent.Input("inverted", tooltip="The latent of DDIM Inversion, with the clip's trajectory inside."),
                io.Conditioning.Input("conditioning", tooltip="What DDIM Inversion was given: the source is read under "
                                      "the same prompt."),
                io.Int.Input("spacing", default=8, min=1, max=64, tooltip="One keyframe for so many frames. The "
                             "authors: 8. 1 makes every frame a keyframe, which takes the memory of all in one call."),
                io.Int.Input("seed", default=0, min=0, max=2**31 - 1, control_after_generate="fixed",
                             tooltip="Of the keyframes' draws, not of the noise."),
                io.Boolean.Input("injection", default=True, tooltip="Plug-and-Play: give the edit the source's "
                                 "structure in the first steps, as published. Off lets shapes change more."),
                io.Float.Input("attention_steps", default=0.5, min=0.0, max=1.0, step=0.05, tooltip="In which share of "
                               "the steps the source's attention is injected. The authors: 0.5."),
                io.Float.Input("residual_steps", default=0.8, min=0.0, max=1.0, step=0.05, tooltip="In which share of "
                               "the steps the source's features are injected. The authors: 0.8."),
                io.Int.Input("chunk", default=0, min=0, max=4096, tooltip="Frames in one call of the U-Net, beside the "
                             "keyframes. 0 chooses by free memory. The result does not depend on it."),
            ],
            outputs=[model_output()],
        )

    @classmethod
    def execute(cls, model, inverted, conditioning, spacing, seed, injection, attention_steps, residual_steps,
                chunk) -> io.NodeOutput:
        from ..methods.tokenflow import Source
        from ..methods.trajectory_store import of_latent

        source = Source(of_latent(inverted), conditioning)
        return attached(model, "tokenflow", source=source, spacing=spacing, seed=seed, injection=injection,
                        attention_steps=attention_steps, residual_steps=residual_steps, chunk=chunk)


NODES = [TokenFlow]
