"""The toy world as nodes: small trained models, and clips whose true edit is known."""

from __future__ import annotations

from comfy_api.latest import io

from .checks import multiple_of_8

CATEGORY = "SteadyEdit/toy world"
SPLITS = ["train", "validation", "test", "demo"]


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


class ToyClip(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditToyClip",
            display_name="Toy Clip",
            category=CATEGORY,
            description="Renders a clip of moving shapes with its caption, an edit of it, and the true answer to that "
            "edit. The same settings give the same clip everywhere.",
            inputs=[
                io.Int.Input("seed", default=0, min=0, max=2**31 - 1, control_after_generate="fixed",
                             tooltip="Which clip."),
                io.Int.Input("frames", default=8, min=1, max=256, tooltip="Number of frames."),
                io.Int.Input("size", default=128, min=32, max=1024, step=8,
                             tooltip="Side in pixels, a multiple of 8. The toy model was trained at 128."),
                io.Combo.Input("edit", options=["colour", "shape", "texture", "background", "style"], default="colour",
                               tooltip="What the edit changes."),
                io.Combo.Input("split", options=SPLITS, default="demo",
                               tooltip="Clips of different splits never coincide; the models saw only train."),
                io.Int.Input("slower", default=1, min=1, max=16, optional=True, tooltip="How many times slower things "
                             "move, from the same first frame. The toy video model was trained at 3."),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The frames."),
                io.String.Output(display_name="caption", tooltip="What the clip shows."),
                io.String.Output(display_name="edit_prompt", tooltip="What it should show after the edit."),
                io.Mask.Output(display_name="mask", tooltip="Where the main object is visible."),
                io.Image.Output(display_name="truth", tooltip="The rendered true answer to the edit."),
                io.Float.Output(display_name="fps", tooltip="Frames a second."),
                io.String.Output(display_name="instruction", tooltip="The edit as an order, for the Toy Editor."),
            ],
        )

    @classmethod
    def execute(cls, seed, frames, size, edit, split, slower=1) -> io.NodeOutput:
        from ..toyworld import apply_edit, edits_of, render, sample_scene
        from ..toyworld.scene import slowed

        multiple_of_8("size", size)
        scene = slowed(sample_scene(seed, split, frames=frames, size=size), slower)
        edits = [candidate for candidate in edits_of(scene) if candidate.kind == edit]
        if not edits:
            raise ValueError(f"edit: clip {seed} of {split} has no {edit} to edit; choose another edit or seed.")
        # By the seed, so that neighbouring clips do not all turn the same colour.
        chosen = edits[seed % len(edits)]
        clip, answer = render(scene), render(apply_edit(scene, chosen))
        return io.NodeOutput(clip.frames, clip.caption, answer.caption, clip.masks[0], answer.frames, 8.0,
                             chosen.instruction)


NODES = [ToyModel, ToyEditor, ToyControlNet, ToyCLIPVision, ToyClip]
