"""The toy world's image-to-video model as a node."""

from __future__ import annotations

from comfy_api.latest import io

from .toy import CATEGORY


class ToyWan(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditToyWan",
            display_name="Toy Wan",
            category=CATEGORY,
            description="A small Wan-2.1-shaped image-to-video model of moving shapes, trained by this pack and "
            "shipped with it; nothing is downloaded. It continues a first frame, and works with all core nodes, first "
            "of all WanImageToVideo.",
            inputs=[],
            outputs=[
                io.Model.Output(display_name="model", tooltip="Transformer with 36 input channels (noise, mask, "
                                "conditioning clip); made for 128x128 pixels and 13 frames."),
                io.Clip.Output(display_name="clip", tooltip="Text encoder of the toy world's captions: the Toy "
                               "Model's."),
                io.Vae.Output(display_name="vae", tooltip="Video autoencoder: 8 pixels and, after the first, 4 frames "
                              "a latent cell."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        from .. import backends

        return io.NodeOutput(*backends.current().load_toy_video())


NODES = [ToyWan]
