"""What of an instruction the toy flow editor reads, whichever host tokenizes it."""

from __future__ import annotations


def check_length(tokens: int, most: int) -> None:
    """Raise ValueError (one sentence) where the Toy Flow Editor would not read all of a text.

    Args:
        tokens, most: of the text, and those that are read; two of them are its ends.
    """
    if tokens > most:
        raise ValueError(f"text: comes to {tokens - 2} words, but the Toy Flow Editor reads {most - 2} and would not "
                         "see the rest; say it shorter, as in: make the ball blue (a word that it does not know counts "
                         "by its letters).")
