"""What people are asked of two videos."""

from __future__ import annotations

import re
from collections.abc import Sequence

#: The one that needs the words that were asked for.
TEXT = "text"
#: The papers' three: textual alignment or instruction following, temporal consistency, overall quality.
QUESTIONS = {
    TEXT: "Which video fits the text better?",
    "consistency": "Which video is more consistent over time, with less flicker and fewer things that change?",
    "overall": "Which video is better overall?",
}


def questions_of(given: Sequence[str]) -> dict[str, str]:
    """Questions by name, from ``NAME=WORDS`` or a name of ``QUESTIONS``; none given: all of these.

    Raises:
        ValueError: one that is neither, or a name twice.
    """
    found: dict[str, str] = {}
    for entry in given:
        name, _, words = (part.strip() for part in entry.partition("="))
        words = words or QUESTIONS.get(name, "")
        if not words or not re.fullmatch(r"\w[\w-]*", name):
            raise ValueError(f"--question {entry!r}: expected NAME=WORDS, or one of {', '.join(QUESTIONS)}.")
        if name in found:
            raise ValueError(f"--question: {name} is asked twice.")
        found[name] = words
    return found or dict(QUESTIONS)
