"""The toy world's small trained models as nodes."""

from __future__ import annotations

from comfy_api.latest import io

CATEGORY = "SteadyEdit/toy world"


class ToyModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditToyModel",
            display_name="Toy Model",
            category=CATEGORY,
            description="A small Stable-Diffusion-1-shaped model of moving shapes, trained by this pack and shipped "
            "with it. Nothing is downloaded. It works with all core nodes.",
            inputs=[],
            outputs=[
                io.Model.Output(display_name="model", tooltip="U-Net; made for 128x128 pixels."),
                io.Clip.Output(display_name="clip", tooltip="Text encoder of the toy world's captions."),
                io.Vae.Output(display_name="vae", tooltip="Autoencoder, 8 pixels a latent cell."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        from .. import backends

        return io.NodeOutput(*backends.current().load_toy())


class ToyEditor(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditToyEditor",
            display_name="Toy Editor",
            category=CATEGORY,
            description="A small InstructPix2Pix of the toy world: it edits a picture as an instruction says, such as "
            "\"make the ball blue\". Trained by this pack and shipped with it; nothing is downloaded. It works with "
            "all core nodes, first of all InstructPixToPixConditioning and DualCFGGuider.",
            inputs=[],
            outputs=[
                io.Model.Output(display_name="model", tooltip="U-Net that reads the picture's latent beside the noise; "
                                "made for 128x128 pixels."),
                io.Clip.Output(display_name="clip", tooltip="Text encoder of the instructions."),
                io.Vae.Output(display_name="vae", tooltip="Autoencoder, 8 pixels a latent cell: the Toy Model's."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        from .. import backends

        return io.NodeOutput(*backends.current().load_toy_editor())


class ToyFlowEditor(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditToyFlowEditor",
            display_name="Toy Flow Editor",
            category=CATEGORY,
            description="A small editor of FLUX Kontext's kind: it reads the picture as reference latents and edits it "
            "as an instruction says, such as \"make the ball blue\". Trained by this pack and shipped with it; nothing "
            "is downloaded. It works with all core nodes for FLUX Kontext.",
            inputs=[],
            outputs=[
                io.Model.Output(display_name="model", tooltip="FLUX transformer, narrow; made for 128x128 pixels."),
                io.Clip.Output(display_name="clip", tooltip="Text encoder of the instructions, for Editor Conditioning "
                               "of a Clip. It reads 14 words or so; longer instructions are refused."),
                io.Vae.Output(display_name="vae", tooltip="Autoencoder, 8 pixels a latent cell: the Toy Model's."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        from .. import backends

        return io.NodeOutput(*backends.current().load_toy_flow_editor())


class ToyControlNet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditToyControlNet",
            display_name="Toy ControlNet",
            category=CATEGORY,
            description="A small ControlNet that makes the Toy Model's pictures follow edges: those of the core node "
            "Canny at thresholds 0.1 and 0.2. Trained by this pack and shipped with it; nothing is downloaded.",
            inputs=[],
            outputs=[io.ControlNet.Output(display_name="control_net", tooltip="For Apply ControlNet; on the Toy Model "
                                          "and models made of it.")],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        from .. import backends

        return io.NodeOutput(backends.current().load_toy_controlnet())


class ToyCLIPVision(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditToyCLIPVision",
            display_name="Toy CLIP Vision",
            category=CATEGORY,
            description="The toy world's scorer: a small CLIP that tells how well a picture fits a caption, for Pick "
            "Root. Trained by this pack and shipped with it; nothing is downloaded.",
            inputs=[],
            outputs=[
                io.Clip.Output(display_name="clip", tooltip="Text encoder into the space shared with pictures; for "
                               "scoring, not for a U-Net."),
                io.ClipVision.Output(display_name="clip_vision", tooltip="Image encoder into the same space."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        from .. import backends

        return io.NodeOutput(*backends.current().load_toy_clip())


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


NODES = [ToyModel, ToyEditor, ToyFlowEditor, ToyControlNet, ToyCLIPVision, ToyWan]
