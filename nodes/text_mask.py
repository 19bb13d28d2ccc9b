"""Words -> masks."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from comfy_api.latest import io

from .pictures import CATEGORY, NOTHING, Boxes, Grounding, Sam, clip_of, explain_out_of_memory, progress


class TextMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditTextMask",
            display_name="Text Mask",
            category=CATEGORY,
            description="Finds what a text names, such as \"dog . red ball\", in every frame or on key frames, and "
            "masks it. The preview shows the boxes.",
            inputs=[
                io.Image.Input("images", tooltip="The clip."),
                Grounding.Input("grounding", tooltip="From Grounding Model."),
                io.String.Input("text", default="", multiline=True, tooltip="What to look for; a full stop between two "
                                "things. \"whole frame\" masks everything. Lines such as 0: man hold from that frame "
                                "on."),
                io.Float.Input("box_threshold", default=0.35, min=0.0, max=1.0, step=0.01,
                               tooltip="Least certainty of a box: lower it where nothing is found, raise it where too "
                               "much is. 0.35 and 0.25 are those of Grounding DINO's own demo."),
                io.Float.Input("text_threshold", default=0.25, min=0.0, max=1.0, step=0.01,
                               tooltip="Least certainty of the words that label a box; it changes the labels only."),
                io.Int.Input("every", default=1, min=1, max=10**6, tooltip="1 looks at every frame; n at every n-th "
                             "only, whose masks Track Mask carries on."),
                io.Int.Input("count", default=0, min=0, max=1000, tooltip="Most boxes a frame, the surest first; 0 "
                             "takes all of them."),
                io.Combo.Input("on_nothing", options=NOTHING, default="error",
                               tooltip="What to do where no frame shows it: go on with an empty mask and a warning, or "
                               "stop."),
                io.Int.Input("chunk", default=4, min=1, max=1024, tooltip="How many frames the networks look at in one "
                             "call: fewer need less memory, the masks stay the same."),
                Sam.Input("sam", optional=True, tooltip="From SAM Model. Unconnected, the boxes are filled."),
            ],
            outputs=[
                io.Mask.Output(display_name="mask", tooltip="One for each frame that was looked at."),
                Boxes.Output(display_name="bboxes", tooltip="The boxes of these frames, for core nodes, too."),
                io.String.Output(display_name="scores", tooltip="One line a frame: labels and certainties."),
                io.String.Output(display_name="frames", tooltip="Numbers of these frames, for Track Mask."),
            ],
        )

    @classmethod
    def execute(cls, images, grounding, text, box_threshold, text_threshold, every, count, on_nothing, chunk,
                sam=None) -> io.NodeOutput:
        import torch
        from comfy_api.latest import ui

        from ..vision.grounding.detector import draw_boxes, prepared_text
        from ..vision.masks import box_prompts, filled, masks_of
        from ..vision.region import WHOLE, regions_of, words_at

        clip = clip_of(images)
        numbers = list(range(0, len(clip), every))
        seen = clip[::every]
        listed = ", ".join(map(str, numbers))
        height, width = clip.shape[1:3]
        regions = regions_of(text)
        words = [words_at(regions, number) for number in numbers]
        box = {"x": 0.0, "y": 0.0, "width": float(width), "height": float(height), "label": WHOLE, "score": 1.0}
        boxes = [[box] if phrase.strip().lower().rstrip(".") == WHOLE else [] for phrase in words]
        if all(boxes):
            return io.NodeOutput(torch.ones(seen.shape[:3]), boxes, WHOLE, listed)
        whole = [bool(row) for row in boxes]
        for phrase in {phrase for phrase, everything in zip(words, whole) if not everything}:
            prepared_text(phrase)
        advance = progress(len(seen), "looking for the words")
        with explain_out_of_memory("grounding", chunk, clip):
            detector = grounding.ready(min(chunk, len(seen)))
            for start, stop in _alike(words, whole, chunk):
                boxes[start:stop] = detector.detect(seen[start:stop], words[start], box_threshold, text_threshold)
                advance(stop)
        boxes = [row[:count] if count else row for row in boxes]
        if not any(boxes):
            sought = "', '".join(dict.fromkeys(phrase.strip() for phrase in words))
            sentence = (f"text: nothing in the clip looks like '{sought}' with a certainty above "
                        f"{box_threshold:g}; use other words or a lower box_threshold.")
            if on_nothing == "error":
                raise ValueError(sentence)
            logging.warning(sentence)
        if sam is None:
            masks = filled(boxes, height, width)
        else:
            with explain_out_of_memory("segmenting", chunk, clip):
                masks, _ = masks_of(sam.ready(min(chunk, len(seen))), seen, box_prompts(boxes), chunk,
                                    progress(sum(map(bool, boxes)), "masking"))
        masks[whole] = 1
        lines = [f"{number}: " + ", ".join(f"{box['label']} {box['score']:.2f}" for box in row)
                 for number, row in zip(numbers, boxes)]
        shown = ui.PreviewImage(draw_boxes(seen, boxes), cls=cls)
        return io.NodeOutput(masks, boxes, "\n".join(lines), listed, ui=shown)


def _alike(words: Sequence[str], skipped: Sequence[bool], chunk: int) -> Iterator[tuple[int, int]]:
    """Runs (start, stop) of at most ``chunk`` neighbouring frames with the same words, but for those to skip."""
    start = 0
    for stop in range(1, len(words) + 1):
        ends = stop == len(words) or stop - start == chunk
        if ends or (words[stop], skipped[stop]) != (words[start], skipped[start]):
            if not skipped[start]:
                yield start, stop
            start = stop


NODES = [TextMask]
