"""The conditioning of a clip for instruction editors of today: each frame sees its own picture."""

from __future__ import annotations

from comfy_api.latest import io

SIZES = ["the frames' own", "the model's own"]


class EditorConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditEditorConditioning",
            display_name="Editor Conditioning of a Clip",
            category="SteadyEdit/via",
            description="An instruction and a clip for Qwen-Image-Edit (2509, 2511), FLUX.1 Kontext or FLUX.2, which "
            "edit one picture at a time: every frame is shown to the editor as its own reference, and all of them are "
            "one conditioning for a batch of frames. Which editor it is says the text encoder.",
            inputs=[
                io.Clip.Input("clip", tooltip="Text encoder of the editor: CLIPLoader with type qwen_image or flux2, "
                              "DualCLIPLoader with type flux."),
                io.Vae.Input("vae", tooltip="The editor's VAE. It is given the frames one by one."),
                io.Image.Input("images", tooltip="The clip. For Streamed Edit its first frame is enough."),
                io.String.Input("instruction", multiline=True, tooltip="What shall change, such as: make the coat red, "
                                "keep everything else."),
                io.String.Input("negative", multiline=True, default="", tooltip="What the edit shall not show; empty "
                                "as a rule. Not used at a guidance (CFG) of 1."),
                io.Combo.Input("reference_size", options=SIZES, default=SIZES[0], tooltip="How large the editor sees a "
                               "frame. The frames' own: the edit lies exactly over the source. The model's own, as "
                               "the core nodes do it, is a million pixels: small frames are seen more clearly, it "
                               "takes longer, and the picture may shift or zoom."),
                io.Image.Input("picture", optional=True, tooltip="A second picture, shown beside every frame: an "
                               "edited frame, a style, an object. The instruction may call it the second picture."),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="The instruction, one row a frame. "
                                       "FluxGuidance and other core conditioning nodes may follow."),
                io.Conditioning.Output(display_name="negative", tooltip="The same pictures with the negative text."),
                io.Latent.Output(display_name="latent", tooltip="The encoded clip, one row a frame, for the sampler, "
                                 "and for Source Path."),
            ],
        )

    @classmethod
    def execute(cls, clip, vae, images, instruction, negative, reference_size, picture=None) -> io.NodeOutput:
        from .. import backends
        from ..methods.via.editor_clip import EditorClip
        from .pictures import clip_of, progress

        frames, beside = clip_of(images), None if picture is None else clip_of(picture, "picture")
        if beside is not None and len(beside) > 1:
            raise ValueError(f"picture: holds {len(beside)} pictures, but one is shown beside every frame; choose one "
                             "of them, by ImageFromBatch.")
        shown = backends.current().picture_editor(clip, vae)
        if beside is not None and shown.one_picture:
            raise ValueError(f"picture: {shown.one_picture} knows one picture only, the frame that it edits; leave "
                             "this unconnected.")
        editor = EditorClip(shown, (instruction, negative), reference_size == SIZES[0], beside)
        done, show = 0, progress(editor.steps * len(frames), "frames for the editor")

        def step() -> None:
            nonlocal done
            done += 1
            show(done)

        made = editor.of(frames, step)
        return io.NodeOutput(*made.prompts, {"samples": made.latents})


NODES = [EditorConditioning]
