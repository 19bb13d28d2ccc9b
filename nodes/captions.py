"""Words about pictures: captions, and the region that an instruction changes."""

from __future__ import annotations

from comfy_api.latest import io

from .model_files import changing_with, checked_when_it_runs, chosen, dtype_of, names, precision_input
from .pictures import Loaded, clip_of, progress

CATEGORY = "SteadyEdit/masks"
FOLDER = "LLM"
NONE = "none"
STYLES = ["detailed", "short", "paragraph"]


def captioners() -> list[str]:
    return names(FOLDER, files=False)


def open_captioner(model: str, precision: str) -> Loaded:
    """The network of a folder, in the host's care."""
    from .. import backends
    from ..vision.captions import EXPECTED, load_captioner

    captioner = load_captioner(chosen(FOLDER, model, EXPECTED), dtype_of(precision))
    return Loaded(captioner, backends.manager().manage(captioner.module), model)


def open_answering(model: str, precision: str) -> Loaded:
    """The network of a folder that answers questions, in the host's care.

    Raises:
        ValueError: it answers none.
    """
    opened = open_captioner(model, precision)
    if not opened.model.chats:
        raise ValueError(f"model: '{model}' describes pictures but answers no questions; choose a vision-language "
                         "model such as Qwen2.5-VL-3B-Instruct.")
    return opened


class Caption(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditCaption",
            display_name="Caption",
            category=CATEGORY,
            description="Describes a frame, or several, by Florence-2 or another captioner of models/LLM. "
            "A fixed word in front, as LoRA-Edit uses, ties the caption to what is trained on it.",
            inputs=[
                io.Image.Input("images", tooltip="The clip, or one picture."),
                io.Combo.Input("model", options=captioners(),
                               tooltip="A folder of models/LLM in transformers' format."),
                io.String.Input("frames", default="0", tooltip="Frames to describe, counted from 0, such as 0, 12; one "
                                "line each."),
                io.String.Input("prefix", default="", tooltip="Put in front of every caption, such as the special word "
                                "of LoRA-Edit."),
                io.Combo.Input("style", options=STYLES, default="detailed", tooltip="How much to say. LoRA-Edit: "
                               "detailed."),
                precision_input(),
            ],
            outputs=[io.String.Output(display_name="caption", tooltip="One line for each frame.")],
        )

    validate_inputs, fingerprint_inputs = classmethod(checked_when_it_runs), changing_with(FOLDER)

    @classmethod
    def execute(cls, images, model, frames, prefix, style, precision="auto") -> io.NodeOutput:
        from .pictures import frame_numbers

        clip = clip_of(images)
        numbers = frame_numbers("frames", frames, len(clip))
        if not numbers:
            raise ValueError("frames: is empty; name the frame to describe, such as 0.")
        captioner, advance, lines = open_captioner(model, precision).ready(1), progress(len(numbers), "describing"), []
        for number in numbers:
            lines.append(" ".join(f"{prefix} {captioner.caption(clip[number], style)}".split()))
            advance(len(lines))
        return io.NodeOutput("\n".join(lines))


class DescribeRegion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditDescribeRegion",
            display_name="Describe Region (VIA)",
            category=CATEGORY,
            description="From an edit instruction and a frame to the words for what has to change, for Text Mask, or "
            "\"whole frame\": VIA's step by a vision-language model. The model is a folder in models/LLM that answers "
            "questions, or ComfyUI's Generate Text, whose text goes into answer.",
            inputs=[
                io.String.Input("instruction", default="", multiline=True, tooltip="The edit, as an order."),
                io.Combo.Input("model", options=[NONE, *captioners()], default=NONE, tooltip="A vision-language model "
                               "of models/LLM in transformers' format; none where answer is connected."),
                io.Image.Input("images", optional=True, tooltip="The clip; its first frame is looked at, or every "
                               "n-th."),
                io.String.Input("answer", optional=True, force_input=True, tooltip="What another model, such as "
                                "Generate Text, answered to the question."),
                precision_input(optional=True),
                io.Int.Input("every", default=0, min=0, max=10**6, optional=True, tooltip="0 asks about the first "
                             "frame alone; n about every n-th, as Text Mask's setting of the same name: give both the "
                             "same. VIA asks about every frame: 1."),
            ],
            outputs=[
                io.String.Output(display_name="region", tooltip="The first frame's words for Text Mask; empty where "
                                 "neither a model nor an answer is given."),
                io.Boolean.Output(display_name="whole_frame", tooltip="Whether everything changes, in all frames that "
                                  "were asked about."),
                io.String.Output(display_name="question", tooltip="What to ask another model, for Generate Text."),
                io.String.Output(display_name="by_frame", tooltip="A line for each frame that was asked about, such as "
                                 "0: man, for Text Mask."),
            ],
        )

    validate_inputs = classmethod(checked_when_it_runs)

    @classmethod
    def execute(cls, instruction, model, images=None, answer=None, precision="auto", every=0) -> io.NodeOutput:
        from ..vision.region import WHOLE, question, region_of, written

        asked = question(instruction)
        if answer is None and model == NONE:
            return io.NodeOutput("", False, asked, "")
        if answer is not None:
            regions = {0: region_of(answer)}
        else:
            if images is None:
                raise ValueError("images: a model can only answer about a picture; connect the clip.")
            clip = clip_of(images)
            numbers = range(0, len(clip), every or len(clip))
            asking = open_answering(model, precision)
            answerer, advance, regions = asking.ready(1), progress(len(numbers), "asking for the region"), {}
            for number in numbers:
                regions[number] = region_of(answerer.ask(clip[number], asked))
                advance(len(regions))
        return io.NodeOutput(regions[0], set(regions.values()) == {WHOLE}, asked, written(regions))


NODES = [Caption, DescribeRegion]
