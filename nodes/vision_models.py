"""Pickers of the networks that find things in pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comfy_api.latest import io

from .pictures import CATEGORY, Grounding, Loaded, Sam

PRECISIONS = ["auto", "float32", "float16", "bfloat16"]
#: The toy world's own network, where its weights are there.
TOY = "toy world (shipped)"
PRECISION_TIP = "Type of the calculation: auto is half precision on a graphics card that computes in it, else float32."


def toy_file(name: str) -> Path:
    """Weights of the toy world's "sam" or "grounder"."""
    from ..toyworld.models import weights_path

    return weights_path(name)


def names(folder: str, kinds: tuple[str, ...]) -> list[str]:
    """What a picker over one of the models folders offers."""
    from .. import backends
    from ..vision.checkpoint import listed

    return listed(backends.keeper().folders(folder), kinds)


def sams() -> list[str]:
    from ..vision.segmentation.load import KINDS

    return [*([TOY] if toy_file("sam").is_file() else []), *names("sams", KINDS)]


def groundings() -> list[str]:
    from ..vision.grounding.load import KINDS

    return [*([TOY] if toy_file("grounder").is_file() else []), *names("grounding-dino", KINDS)]


def chosen(folder: str, name: str, expected: str) -> Path:
    """The file or folder of a picker.

    Raises:
        FileNotFoundError: there is none, with the folder and the names that were looked for.
    """
    from .. import backends
    from ..vision.checkpoint import located

    folders = backends.keeper().folders(folder)
    try:
        return located(folders, name)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"model: '{name}' is not in {' or '.join(map(str, folders))}; put {expected} there "
                                "and reload the page.") from error


def dtype_of(precision: str) -> Any:
    import torch

    from .. import backends

    return backends.keeper().precision() if precision == "auto" else getattr(torch, precision)


def stamp(folder: str, name: str) -> Any:
    """Changes when the file does."""
    from .. import backends

    paths = [root / name for root in backends.keeper().folders(folder)]
    return (name, *(path.stat().st_mtime_ns for path in paths if path.exists()))


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
                io.Combo.Input("precision", options=PRECISIONS, default="auto", tooltip=PRECISION_TIP),
            ],
            outputs=[Sam.Output(display_name="sam", tooltip="For Text Mask, Point Mask and Track Mask.")],
        )

    @classmethod
    def validate_inputs(cls, model: Any = None) -> bool | str:
        return True  # that it is there is checked where the folder can be named

    @classmethod
    def fingerprint_inputs(cls, model: Any = None, **rest: Any) -> Any:
        return stamp("sams", model or "")

    @classmethod
    def execute(cls, model, precision="auto") -> io.NodeOutput:
        from .. import backends
        from ..vision.segmentation.load import EXPECTED, load_segmenter

        path = toy_file("sam") if model == TOY else chosen("sams", model, EXPECTED)
        segmenter = load_segmenter(path, dtype_of(precision))
        return io.NodeOutput(Loaded(segmenter, backends.keeper().keep(segmenter.module), model))


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
                io.Combo.Input("precision", options=PRECISIONS, default="auto", tooltip=PRECISION_TIP),
            ],
            outputs=[Grounding.Output(display_name="grounding", tooltip="For Text Mask.")],
        )

    @classmethod
    def validate_inputs(cls, model: Any = None) -> bool | str:
        return True  # that it is there is checked where the folder can be named

    @classmethod
    def fingerprint_inputs(cls, model: Any = None, **rest: Any) -> Any:
        return stamp("grounding-dino", model or "")

    @classmethod
    def execute(cls, model, precision="auto") -> io.NodeOutput:
        from .. import backends
        from ..vision.grounding.load import EXPECTED, load_detector

        keeper = backends.keeper()
        if model == TOY:
            from ..toyworld.models import load_grounder

            detector = load_grounder()
        else:
            path = chosen("grounding-dino", model, EXPECTED)
            detector = load_detector(path, keeper.folders("grounding-dino"), dtype_of(precision))
        return io.NodeOutput(Loaded(detector, keeper.keep(detector.module), model))


NODES = [GroundingModel, SAMModel]
