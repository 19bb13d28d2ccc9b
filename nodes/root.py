"""VIA's root frame: candidates of its edit, and the best of them."""

from __future__ import annotations

from comfy_api.latest import io

from .checks import conditions_fit, explain_out_of_memory

CATEGORY = "SteadyEdit/via"


class RootCandidates(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditRootCandidates",
            display_name="Root Candidates (VIA)",
            category=CATEGORY,
            description="Edits one frame of the clip under several seeds, each from pure noise with ComfyUI's own "
            "sampler and the guidance of DualCFGGuider. The preview numbers them for Pick Root.",
            inputs=[
                io.Model.Input("model", tooltip="That of an InstructPix2Pix checkpoint, or the Toy Editor's."),
                io.Conditioning.Input("positive", tooltip="The instruction."),
                io.Conditioning.Input("negative", tooltip="The empty prompt."),
                io.Vae.Input("vae", tooltip="The editor's VAE."),
                io.Image.Input("images", tooltip="The clip, or the one frame to edit."),
                io.Int.Input("frame", default=-1, min=-1, max=10**6,
                             tooltip="Which frame, counted from 0; -1 draws one by the seed, as the paper does."),
                io.Int.Input("count", default=4, min=1, max=64, tooltip="How many edits of the frame there are to "
                             "choose from; each costs a run of the editor."),
                io.Int.Input("seed", default=0, min=0, max=2**63 - 1, control_after_generate="fixed",
                             tooltip="Seed of the first candidate; each next one has one more."),
                io.Int.Input("steps", default=10, min=1, max=1000, tooltip="Sampling steps (scheduler normal). The "
                             "paper: 10."),
                io.Float.Input("text_guidance", default=7.5, min=0.0, max=100.0, step=0.1,
                               tooltip="Pull of the instruction. The paper: 7.5, toy editor: 2.5."),
                io.Float.Input("image_guidance", default=1.5, min=0.0, max=100.0, step=0.1,
                               tooltip="Pull of the frame. The paper: 1.5, toy editor: 1."),
                io.Sampler.Input("sampler", optional=True, tooltip="From KSamplerSelect; euler if unconnected."),
            ],
            outputs=[
                io.Image.Output(display_name="candidates", tooltip="The edits, in the order of their seeds."),
                io.Image.Output(display_name="source_frame", tooltip="The frame that was edited."),
                io.String.Output(display_name="seeds", tooltip="The seeds, in order."),
                io.Int.Output(display_name="frame", tooltip="The frame's number in the clip."),
            ],
        )

    @classmethod
    def execute(cls, model, positive, negative, vae, images, frame, count, seed, steps, text_guidance, image_guidance,
                sampler=None) -> io.NodeOutput:
        from comfy_api.latest import ui

        from .. import backends
        from ..methods.preview import numbered
        from ..methods.via.candidates import chosen_frame, root_candidates
        from ..methods.via.root import whole_cells

        backend = backends.of(model)
        conditions_fit("positive", positive, 1)
        conditions_fit("negative", negative, 1)
        frame = chosen_frame(frame, len(images), seed)
        source = whole_cells(images[frame : frame + 1, ..., :3])
        seeds = [seed + i for i in range(count)]
        height, width = (side // 8 for side in source.shape[1:3])
        with explain_out_of_memory(backend, "editing", source.new_empty(1, 4, height, width)):
            edits = root_candidates(
                backend, model, vae, source, positive, negative, seeds, steps=steps, text_guidance=text_guidance,
                image_guidance=image_guidance, sampler=sampler or "euler")  # fmt: skip
        preview = ui.PreviewImage(numbered(edits, [f"{i + 1}" for i in range(count)]), cls=cls)
        return io.NodeOutput(edits, source, ", ".join(map(str, seeds)), frame, ui=preview)


class PickRoot(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditPickRoot",
            display_name="Pick Root (VIA)",
            category=CATEGORY,
            description="The best candidate: by its number, or automatically as the one whose picture changed in the "
            "direction in which the text changes (CLIP) and that left the rest alone. The paper lets a person choose.",
            inputs=[
                io.Image.Input("candidates", tooltip="From Root Candidates."),
                io.Image.Input("source_frame", tooltip="The frame before its edit, from Root Candidates."),
                io.Int.Input("index", default=0, min=0, max=64, tooltip="Number of the candidate in the preview; 0 "
                             "chooses automatically and needs clip and clip_vision."),
                io.Float.Input("preservation", default=0.5, min=0.0, max=100.0, step=0.05, tooltip="Weight of what "
                               "stayed the same outside the mask, against the direction of the change."),
                io.String.Input("instruction", default="", optional=True,
                                tooltip="The instruction; not needed where both captions are given."),
                io.String.Input("source_caption", default="", optional=True, tooltip="What the clip shows."),
                io.String.Input("edited_caption", default="", optional=True, tooltip="What it shows after the edit."),
                io.Mask.Input("mask", optional=True, tooltip="Where the edit belongs: one, or one a frame of the clip. "
                              "Unconnected, the whole picture counts as to be preserved."),
                io.Int.Input("frame", default=0, min=0, max=10**6, optional=True,
                             tooltip="The frame's number, from Root Candidates: its mask is taken."),
                io.Clip.Input("clip", optional=True, tooltip="For the automatic choice: text encoder of a whole "
                              "CLIP, such as clip_l by CLIPLoader; that of a Stable Diffusion 1.x checkpoint does "
                              "not do."),
                io.ClipVision.Input("clip_vision", optional=True, tooltip="Image encoder of the same CLIP."),
            ],
            outputs=[
                io.Image.Output(display_name="root_source", tooltip="The frame before its edit."),
                io.Image.Output(display_name="root_edited", tooltip="The chosen edit."),
                io.Int.Output(display_name="index", tooltip="Number of the chosen candidate, from 1."),
                io.String.Output(display_name="scores", tooltip="One line a candidate, where it was automatic."),
            ],
        )

    @classmethod
    def execute(cls, candidates, source_frame, index, preservation, instruction="", source_caption="",
                edited_caption="", mask=None, frame=0, clip=None, clip_vision=None) -> io.NodeOutput:
        from comfy_api.latest import ui

        from .. import backends
        from ..methods.preview import numbered
        from ..methods.via.candidates import scored
        from ..methods.via.root import check_candidates

        check_candidates(candidates, source_frame, index)
        labels, lines = [f"{i + 1}" for i in range(len(candidates))], ""
        if not index:
            found = scored(backends.current(), source_frame, candidates, clip, clip_vision,
                           (source_caption, edited_caption), instruction, mask, frame, preservation)
            index, lines = found.best + 1, found.lines()
            labels = [f"{i + 1}: {total:.2f}" for i, total in enumerate(found.total.tolist())]
        preview = ui.PreviewImage(numbered(candidates, labels, chosen=index - 1), cls=cls)
        return io.NodeOutput(source_frame, candidates[index - 1 : index], index, lines, ui=preview)


NODES = [RootCandidates, PickRoot]
