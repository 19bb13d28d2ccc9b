"""A clip's looks, scored by a vision-language model."""

from __future__ import annotations

from comfy_api.latest import io

from .captions import FOLDER, captioners, open_answering
from .metrics import CATEGORY
from .model_files import changing_with, checked_when_it_runs, precision_input
from .pictures import clip_of, progress


class QualityScore(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditQualityScore",
            display_name="Quality Score (DeQA)",
            category=CATEGORY,
            description="How good the pictures of a clip look, from 1 (bad) to 5 (excellent): a vision-language model "
            "of models/LLM is asked, and how likely it finds each of the five words is averaged, as DeQA-Score does.",
            is_output_node=True,
            inputs=[
                io.Image.Input("images", tooltip="The clip."),
                io.Combo.Input("model", options=captioners(), tooltip="A vision-language model in transformers' "
                               "format, a folder of models/LLM. Scores of two models cannot be compared."),
                io.Int.Input("stride", default=1, min=1, max=10_000, tooltip="1 scores every frame, n every n-th "
                             "only, in that much less time."),
                precision_input(),
            ],
            outputs=[
                io.Float.Output(display_name="score", tooltip="The mean over the frames that were looked at."),
                io.String.Output(display_name="report", tooltip="The mean, the worst frame, and all scores."),
            ],
        )

    validate_inputs, fingerprint_inputs = classmethod(checked_when_it_runs), changing_with(FOLDER)

    @classmethod
    def execute(cls, images, model, stride=1, precision="auto") -> io.NodeOutput:
        from comfy_api.latest import ui

        from ..vision.quality import qualities

        frames = clip_of(images)[::stride]
        captioner = open_answering(model, precision)
        scores = qualities(captioner.ready(1), frames, progress(len(frames), "scoring"))
        mean, worst = sum(scores) / len(scores), min(range(len(scores)), key=scores.__getitem__)
        report = (f"quality: {mean:.3f} of 5, by {model}\nworst: {scores[worst]:.3f}, frame {worst * stride}\n"
                  f"frames: {', '.join(f'{score:.3f}' for score in scores)}")
        return io.NodeOutput(mean, report, ui=ui.PreviewText(report))


NODES = [QualityScore]
