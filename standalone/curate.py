"""``steadyedit curate``: its options, and what they call."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

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
    rows = run(settings, lambda line: print(line, file=sys.stderr))
    print(finished(rows, options.output))
    return 0
