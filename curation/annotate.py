"""A clip described by a vision-language model, and edits of that description."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from .answers import Parsed, labels_of, prompts_of
from .schema import ASPECTS, CLASSES, COMBINATION, COMPLEXITIES, EDITS, HARDEST, LABELS, Row

if TYPE_CHECKING:
    from torch import Tensor

#: How often what is missing is asked for.
ROUNDS = 2
TOKENS = 512
CHANGES = {
    "subject": "the look or the identity of the main subject, such as its clothing or what it is",
    "background": "the setting, such as a kitchen that becomes a meadow",
    "event": "what is done, such as walking that becomes playing basketball",
    "style": "the style of the whole picture, such as a cartoon or black and white",
}


class Annotator(Protocol):
    """What is asked about a clip, such as a ``vision.captions.Captioner``."""

    @property
    def chats(self) -> bool:
        """Whether it answers questions; what does not captions alone."""

    def ask(self, frames: Tensor, words: str, tokens: int = 64) -> str:
        """Its answer about frames [F, height, width, 3]."""

    def caption(self, frame: Tensor, style: str = "detailed", tokens: int = 256) -> str:
        """Words for one frame [height, width, 3]."""


def labels_question() -> str:
    """The question about frames of a clip: caption, classes, complexities."""
    example = {"caption": "one sentence on what is to be seen and done"}
    rules = []
    for kind, classes in CLASSES.items():
        example |= {kind: classes[0], f"{kind}_complexity": "1"}
        rules.append(f"{kind} is one of: {', '.join(classes)}.")
    levels = ", ".join(f"{level} {word}" for level, word in enumerate(COMPLEXITIES, 1))
    return (f"These are frames of one video, in order. Describe the video. Answer with JSON only, such as "
            f"{json.dumps(example)}. {' '.join(rules)} A complexity is a number: {levels}.")  # fmt: skip


def prompts_question(row: Row, pair: tuple[str, str]) -> str:
    """The question for edited captions."""
    wanted = [f"{edit}: change {words}." for edit, words in CHANGES.items()]
    wanted.append(f"{COMBINATION}: change the {pair[0]} and the {pair[1]} at once.")
    example = json.dumps({edit: {"prompt": "the whole edited caption", "difficulty": 1} for edit in EDITS})
    return (f"A video shows: {row['caption']} Write this caption anew in five ways for video editing, each time "
            f"changing only what is said here and leaving the rest as it is. {' '.join(wanted)} Rate how hard each "
            f"edit is, from 1 (easy) to {HARDEST} (hard). Answer with JSON only: {example}")  # fmt: skip


def pair_of(name: str) -> tuple[str, str]:
    """Two of the four aspects, by chance, but always the same for one clip."""
    first, second = sorted(random.Random(name).sample(range(len(ASPECTS)), 2))
    return ASPECTS[first], ASPECTS[second]


def annotate(row: Row, frames: Tensor, captioner: Annotator) -> list[str]:
    """Fill the empty cells of a row; returns what is still missing or wrong, for a person to see to.

    A captioner that does not chat writes the caption alone, of the frame in the middle.

    Args:
        frames: [8, H, W, 3], evenly spaced.
    """
    if not captioner.chats:
        fill_empty_cells(row, {"caption": captioner.caption(frames[len(frames) // 2])})
        return ["the model only captions: classes and edits are to be filled in"]
    notes: list[str] = []
    if any(not row[column] for column in LABELS):
        notes += asked(row, labels_question(), lambda words: captioner.ask(frames, words, TOKENS), labels_of)
    if row["caption"] and any(not row[f"{edit}_prompt"] for edit in EDITS):
        pair = pair_of(row["name"])
        had = row[f"{COMBINATION}_prompt"]
        notes += asked(row, prompts_question(row, pair), lambda words: captioner.ask(frames, words, TOKENS),
                       lambda answer: prompts_of(answer, row["caption"]))  # fmt: skip
        if row[f"{COMBINATION}_prompt"] and not had:
            fill_empty_cells(row, {"combination_of": " and ".join(pair)})
    return notes


def asked(row: Row, question: str, ask: Callable[[str], str], parse: Callable[[str], Parsed]) -> list[str]:
    """Ask until no cell is missing, ``ROUNDS`` times at the most; what is right is kept from every answer."""
    left: dict[str, str] = {}
    for _ in range(ROUNDS):
        again = f" Your last answer could not be used: {'; '.join(left.values())}." if left else ""
        cells, wrong = parse(ask(question + again))
        fill_empty_cells(row, cells)
        left = {column: words for column, words in wrong.items() if not row[column]}
        if not left:
            break
    return list(left.values())


def fill_empty_cells(row: Row, cells: Mapping[str, str]) -> None:
    """Set cells that are empty; what stands there, a person may have written."""
    for column, value in cells.items():
        row[column] = row.get(column) or value
