"""``steadyedit study``: its options, and what they call."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def add_study(commands: Any) -> None:
    """The command's parser; nothing heavy is imported."""
    study = commands.add_parser("study", help="a page for blind comparisons by people, and what their answers say")
    study.add_argument("folders", nargs="*", type=Path, metavar="FOLDER",
                       help="videos of one method each; those of one name are compared")
    study.add_argument("--output", type=Path, metavar="DIR", help="the study's folder, which must be new")
    study.add_argument("--key", type=Path, metavar="FILE",
                       help="which video is whose; default: DIR_key.json beside the study's folder")
    study.add_argument("--names", metavar="A,B", help="of the methods; default: the folders' names")
    study.add_argument("--source", type=Path, metavar="DIR", help="the unedited videos, shown above each pair")
    study.add_argument("--texts", type=Path, metavar="FILE",
                       help="what each video should show: CSV with the columns name and text, or JSON")
    study.add_argument("--question", action="append", default=[], dest="questions", metavar="NAME=WORDS",
                       help="in place of the papers' questions text, consistency and overall; may be repeated")
    study.add_argument("--title", default="Which video is better?", help="of the page; default: %(default)s")
    study.add_argument("--against-first", action="store_true", help="compare the first folder with the others only")
    study.add_argument("--shorten", action="store_true", help="cut videos of unequal length to the shortest")
    study.add_argument("--no-tie", action="store_true", help="ask for a choice every time")
    study.add_argument("--show", type=int, default=0, metavar="N", help="so many pairs for each person, by chance; "
                       "default: all")
    study.add_argument("--analyse", nargs="+", type=Path, metavar="FILE",
                       help="preferences in files that the page saved; needs --key")
    study.add_argument("--json", type=Path, metavar="FILE", help="with --analyse: write the numbers there too")


def study(options: argparse.Namespace) -> int:
    """Make a study, or analyse its answers."""
    if options.analyse:
        from ..study.analyse import analyse

        if options.key is None:
            raise ValueError("study --analyse: name the study's key by --key FILE.")
        print(analyse(options.analyse, options.key, options.json))
        return 0
    from ..study.make import Settings, finished, make

    if options.output is None:
        raise ValueError("study: name a new folder by --output DIR.")
    if options.json:
        raise ValueError("study --json: belongs to --analyse.")
    made = make(Settings(
        options.folders, options.output, options.key, options.names.split(",") if options.names else (), options.source,
        options.texts, options.questions, options.title, options.against_first, options.shorten, not options.no_tie,
        options.show), lambda line: print(line, file=sys.stderr))  # fmt: skip
    for problem in made.problems:
        print(f"note: {problem}", file=sys.stderr)
    print(finished(made))
    return 0
