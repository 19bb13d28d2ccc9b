"""``steadyedit curate``: its options, and what they call."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from .graph import GraphError

SETS = ("loveu-tgve", "balancecc", "rave", "davis")


def add_curate(commands: Any) -> None:
    """The command's parser; nothing heavy is imported."""
    curate = commands.add_parser("curate", help="choose, filter and describe clips to compare video editing on")
    curate.add_argument("places", nargs="+", type=Path, metavar="VIDEOS",
                        help="video files, folders of them, or with --set a public set's folder")
    curate.add_argument("--output", type=Path, required=True, metavar="DIR",
                        help="for manifest.csv, statistics.md and the clips; goes on with what is there")
    curate.add_argument("--set", choices=SETS, dest="kind", help="the folder is this public set's")
    curate.add_argument("--model", type=Path, metavar="FOLDER",
                        help="a vision-language model in transformers' format; without it a person fills the cells in")
    curate.add_argument("--text-encoder", metavar="FILE",
                        help="in its place: a text encoder that sees pictures, of your ComfyUI or by its path; "
                        "ComfyUI's Generate Text asks it")
    curate.add_argument("--size", type=int, default=512, help="side of the clips; default: %(default)s")
    curate.add_argument("--frames", default="32,64,128", metavar="A,B",
                        help="numbers of frames that a clip may have; the largest that fits; default: %(default)s")
    curate.add_argument("--least-motion", type=float, default=0.1, metavar="PERCENT",
                        help="of the picture's side a frame; default: %(default)s")
    curate.add_argument("--most-motion", type=float, default=5.0, metavar="PERCENT", help="default: %(default)s")
    curate.add_argument("--no-cuts", action="store_true", help="do not look for scene cuts, which PySceneDetect finds")


def curate(options: argparse.Namespace) -> int:
    """Fill a manifest."""
    from ..curation.run import Settings, finished
    from ..curation.run import curate as run

    try:
        lengths = tuple(int(part) for part in options.frames.split(","))
    except ValueError as error:
        raise ValueError(f"--frames {options.frames}: numbers of frames are expected, such as 32,64,128.") from error
    settings = Settings(options.places, options.output, options.kind, options.model, options.size, lengths,
                        options.least_motion, options.most_motion, not options.no_cuts)  # fmt: skip
    if options.text_encoder and options.model:
        raise ValueError("--text-encoder and --model: both describe the clips; give one.")
    with ExitStack() as stack:
        annotator = None
        if options.text_encoder:
            from .comfy_process import find_comfy
            from .generate_text import check_host, found_text_encoder, generating

            if (comfy := find_comfy()) is None:
                raise GraphError("--text-encoder needs your ComfyUI, and none was found: set COMFYUI_PATH to its "
                                 "folder.")
            # Before hours of work; the host itself starts with the first question.
            check_host(comfy)
            file = found_text_encoder(options.text_encoder, comfy / "models")
            annotator = partial(stack.enter_context, generating(comfy, file))
        rows = run(settings, lambda line: print(line, file=sys.stderr), annotator)
    print(finished(rows, options.output))
    return 0
