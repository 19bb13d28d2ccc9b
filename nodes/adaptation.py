"""VIA's test-time adaptation, and a condition for every frame."""

from __future__ import annotations

from comfy_api.latest import io

from .training import cache_of, learning_rate_input, lora_output, loss_map_output, rank_input, reuse_input, seed_input

CATEGORY = "SteadyEdit/via"


class TestTimeAdapt(io.ComfyNode):
    #: Not a test, whatever its name begins with.
    __test__ = False

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditTestTimeAdapt",
            display_name="Test-Time Adapt (VIA)",
            category=CATEGORY,
            description="Trains a LoRA on one edited frame and its source, both warped alike at random, so that the "
            "editor repeats this edit on all frames. The model that comes in is not changed. Cancelled, it goes on "
            "from its last checkpoint next time; the same pair, model and recipe is found again, not trained twice.",
            inputs=[
                io.Model.Input("model", tooltip="An InstructPix2Pix-like editor, or Qwen-Image-Edit or FLUX Kontext."),
                io.Conditioning.Input("positive", tooltip="The instruction; for Qwen-Image-Edit and FLUX from "
                                      "Editor Conditioning of a Clip, with any frame."),
                io.Conditioning.Input("negative", tooltip="The empty prompt, learned where the text is dropped; from "
                                      "the same node."),
                io.Vae.Input("vae", tooltip="The editor's VAE."),
                io.Image.Input("root_source", tooltip="The root frame before its edit, from Pick Root."),
                io.Image.Input("root_edited", tooltip="The root frame after its edit, from Pick Root."),
                io.Int.Input("steps", default=150, min=1, max=100000, tooltip="Training steps; 100 to 200 serve well. "
                             "The paper states none."),
                learning_rate_input(1e-4, "The paper states none."),
                rank_input(" on all attention projections"),
                io.Int.Input("batch", default=4, min=1, max=64, tooltip="Warped pairs a step. Less saves memory."),
                io.Int.Input("variants", default=48, min=1, max=4096,
                             tooltip="How many random warps of the pair; they are encoded once, before training."),
                io.Float.Input("dropout", default=0.05, min=0.0, max=0.3, step=0.01, tooltip="Share of samples without "
                               "the text, without the image, and without both, each. Qwen-Image-Edit and FLUX: share "
                               "of steps without the text."),
                seed_input("warps, timesteps and noise"),
                reuse_input("the LoRA"),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The editor with the LoRA on its weights."),
                lora_output(),
                loss_map_output(),
            ],
        )

    @classmethod
    def execute(cls, model, positive, negative, vae, root_source, root_edited, steps, learning_rate, rank, batch,
                variants, dropout, seed, reuse) -> io.NodeOutput:
        from .. import backends
        from ..methods.tune_recipe import TuneRecipe
        from ..methods.via.adapt import AdaptRecipe, adapt

        backend = backends.of(model)
        training = TuneRecipe(steps=steps, learning_rate=learning_rate, seed=seed, queries=False)
        recipe = AdaptRecipe(training, rank=rank, batch=batch, variants=variants, dropout=dropout)
        tuned = adapt(backend, model, vae, root_source, root_edited, positive, negative, recipe,
                      cache=cache_of(backend, reuse))  # fmt: skip
        return io.NodeOutput(tuned.model, dict(tuned.weights.tensors), tuned.loss_map)


class PerFrameConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditPerFrameConditioning",
            display_name="Per-Frame Conditioning",
            category=CATEGORY,
            description="One prompt for every frame as one CONDITIONING, as an editor whose text follows the picture "
            "(MGIE) needs it: written here a line a frame, or encoded elsewhere. Gather-swap of cross-attention "
            "matters with it.",
            inputs=[
                io.Clip.Input("clip", optional=True, tooltip="Text encoder of the model; for text."),
                io.String.Input("text", multiline=True, tooltip="One line a frame, in order. An empty line between "
                                "others is an empty prompt. Empty where conditioning holds all frames."),
                io.Image.Input("images", optional=True, tooltip="The clip: its frames are counted, so that a wrong "
                               "number of lines is refused at once."),
                io.Boolean.Input("spread", default=False, optional=True, tooltip="Let fewer lines hold for equally "
                                 "long parts of the clip; needs images."),
                io.Conditioning.Input("conditioning", optional=True, tooltip="Prompts encoded elsewhere, which come "
                                      "before those of text: a batch of them, several put together by Conditioning "
                                      "(Combine), or the tokens of a multimodal model, a row a frame."),
            ],
            outputs=[
                io.Conditioning.Output(display_name="conditioning", tooltip="One row a frame."),
            ],
        )

    @classmethod
    def execute(cls, clip=None, text="", images=None, spread=False, conditioning=None) -> io.NodeOutput:
        from ..methods.via.per_frame import lines_of, one_condition, rows_for, rows_of

        lines = lines_of(text)
        if lines and clip is None:
            raise ValueError("clip: text needs a text encoder; connect the model's CLIP, or leave text empty.")
        encoded = {line: clip.encode_from_tokens_scheduled(clip.tokenize(line)) for line in dict.fromkeys(lines)}
        rows = [*rows_of(conditioning or ()), *(encoded[line] for line in lines)]
        chosen = rows_for(len(rows), None if images is None else len(images), spread,
                          "text" if conditioning is None else "conditioning")  # fmt: skip
        return io.NodeOutput(one_condition([rows[number] for number in chosen]))


NODES = [TestTimeAdapt, PerFrameConditioning]
