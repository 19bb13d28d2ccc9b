"""The words for the part of a picture that an instruction changes: VIA's step by a vision-language model."""

from __future__ import annotations

import re
from collections.abc import Mapping

#: What stands for everything, here and in Text Mask.
WHOLE = "whole frame"
#: An answer that goes on longer is no name of a region.
LONGEST = 12
QUESTION = (
    'An instruction for editing this picture says: "{instruction}". Which object or region that is in the picture now '
    "has to change? Answer with a short noun phrase and nothing else, such as: red ball. If all of the picture changes "
    "(its style, its weather, its light, its colours), answer: " + WHOLE + "."
)


def question(instruction: str) -> str:
    """What a model is asked.

    Raises:
        ValueError: there is no instruction.
    """
    if not instruction.strip():
        raise ValueError("instruction: is empty; write what to change, such as: make the ball blue")
    return QUESTION.format(instruction=" ".join(instruction.split()).replace('"', "'"))


def region_of(answer: str) -> str:
    """The region's words in a model's answer, lower case; ``WHOLE`` for all of the picture.

    Thoughts in <think> tags, quotes, "Answer:", articles and what follows the first line go.

    Raises:
        ValueError: the answer names no region.
    """
    text = re.sub(r"<think>.*?(</think>|$)", " ", answer, flags=re.DOTALL)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    words = lines[0] if lines else ""
    words = re.sub(r"[*\"`“”]", "", words).strip()
    words = re.sub(r"^(the )?(answer|region|object)( is)?\s*[:=]?\s+", "", words, flags=re.IGNORECASE)
    words = words.rstrip(".!").strip(" '").rstrip(".!").lower()
    if re.search(r"\b(whole|entire|full|all of the)\b.*\b(frame|picture|image|scene|video)\b", words):
        return WHOLE
    words = re.sub(r"^(the|a|an)\s+", "", words)
    if not words or len(words.split()) > LONGEST:
        raise ValueError(f"answer: names no region: {answer.strip()[:80]!r}; ask for a short noun phrase, or write the "
                         "region into Text Mask yourself.")
    return words


def written(regions: Mapping[int, str]) -> str:
    """Words by frame as a text, a line for each: ``0: man``."""
    return "\n".join(f"{frame}: {words}" for frame, words in sorted(regions.items()))


def regions_of(text: str) -> dict[int, str]:
    """What ``written`` wrote, or a person: the words by the frame from which on they hold.

    A text with a line that has no frame's number in front is words for all frames, {0: text}.

    Raises:
        ValueError: a frame is named twice.
    """
    lines = [re.fullmatch(r"(\d+)\s*:\s*(\S.*)", line.strip()) for line in text.splitlines() if line.strip()]
    named = [(int(line[1]), line[2]) for line in lines if line]
    if not named or len(named) < len(lines):
        return {0: text}
    found = dict(named)
    if len(found) < len(named):
        raise ValueError(f"text: gives words for a frame twice: {', '.join(str(frame) for frame, _ in named)}.")
    return found


def words_at(regions: Mapping[int, str], frame: int) -> str:
    """The words that hold at a frame: of the last named one up to it, or of the first where none comes before."""
    return regions[max((named for named in regions if named <= frame), default=min(regions))]
