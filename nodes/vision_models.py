"""Pickers of the networks that find things in pictures."""

from __future__ import annotations

from pathlib import Path

from comfy_api.latest import io

from .model_files import changing_with, checked_when_it_runs, chosen, dtype_of, names, precision_input
from .pictures import CATEGORY, Grounding, Loaded, Sam

#: The toy world's own network, where its weights are there.
TOY = "toy world (shipped)"


def toy_file(name: str) -> Path:
    """Weights of the toy world's "sam" or "grounder"."""
    from ..toyworld.shipped import WEIGHTS

    return WEIGHTS / f"{name}.safetensors"


def sams() -> list[str]:
    from ..vision.checkpoint import SEGMENTERS

    return [*([TOY] if toy_file("sam").is_file() else []), *names("sams", SEGMENTERS)]


def groundings() -> list[str]:
    from ..vision.checkpoint import DETECTORS

    return [*([TOY] if toy_file("grounder").is_file() else []), *names("grounding-dino", DETECTORS)]


class SAMModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditSAMModel",
            display_name="SAM Model",
            category=CATEGORY,
            description="Opens a Segment Anything checkpoint from models/sams: the official sam_vit_b, l or h, or a "
            "folder of SAM, SAM 2 or SAM 2 video in transformers' format. SAM 2 video also tracks by its memory.",
            inputs=[
                io.Combo.Input("model", options=sams(), tooltip="A file or folder in models/sams."),
                precision_input(),
            ],
            outputs=[Sam.Output(display_name="sam", tooltip="For Text Mask, Point Mask and Track Mask.")],
        )

    validate_inputs, fingerprint_inputs = classmethod(checked_when_it_runs), changing_with("sams")

    @classmethod
    def execute(cls, model, precision="auto") -> io.NodeOutput:
        from .. import backends
        from ..vision.segmentation.load import EXPECTED, load_segmenter

        path = toy_file("sam") if model == TOY else chosen("sams", model, EXPECTED)
        segmenter = load_segmenter(path, dtype_of(precision))
        return io.NodeOutput(Loaded(segmenter, backends.manager().manage(segmenter.module), model))


class GroundingModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditGroundingModel",
            display_name="Grounding Model",
            category=CATEGORY,
            description="Opens a Grounding DINO checkpoint from models/grounding-dino: the official swint_ogc or swinb "
            "(through groundingdino-py where that is installed, else through transformers), or a folder in "
            "transformers' format. Official files need BERT's vocab.txt in bert-base-uncased beside them.",
            inputs=[
                io.Combo.Input("model", options=groundings(), tooltip="A file or folder in models/grounding-dino."),
                precision_input(),
            ],
            outputs=[Grounding.Output(display_name="grounding", tooltip="For Text Mask.")],
        )

    validate_inputs, fingerprint_inputs = classmethod(checked_when_it_runs), changing_with("grounding-dino")

    @classmethod
    def execute(cls, model, precision="auto") -> io.NodeOutput:
        from .. import backends
        from ..vision.grounding.load import EXPECTED, load_detector

        manager = backends.manager()
        if model == TOY:
            from ..toyworld.models import load_grounder

            detector = load_grounder()
        else:
            path = chosen("grounding-dino", model, EXPECTED)
            detector = load_detector(path, manager.folders("grounding-dino"), dtype_of(precision))
        return io.NodeOutput(Loaded(detector, manager.manage(detector.module), model))


NODES = [GroundingModel, SAMModel]
