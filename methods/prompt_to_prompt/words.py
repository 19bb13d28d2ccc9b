"""Which token of the source prompt each token of the target prompt takes its attention map from (Hertz et al. 2022).

A prompt is words, and a word one or more tokens of the text encoder. In a *swap* both prompts have the same number of
words, and each word of the target takes over the map of the word in its place. In a *refinement* the target has words
more (or less): those of both prompts take their own map over, found by the longest common subsequence of the tokens,
and new words keep the map that they have.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

EDITS = ("auto", "swap", "refine")


@dataclass(frozen=True)
class TextTokens:
    """A prompt as the text encoder sees it.

    Args:
        words: of the prompt.
        places: the numbers of each word's tokens.
        ids: of all tokens, the marks of begin, end and padding among them.
    """

    words: tuple[str, ...]
    places: tuple[tuple[int, ...], ...]
    ids: tuple[Hashable, ...]

    @classmethod
    def read(cls, text: str, encode: Callable[[str], Sequence[Hashable]]) -> TextTokens:
        """Of a prompt.

        Args:
            text: words with spaces between.
            encode: gives all tokens of a text, filled up to whole windows as the encoder reads them.

        Raises:
            ValueError: the words, one by one, are other tokens than the whole prompt.
        """
        ids = tuple(encode(text))
        inner = content(ids, encode)
        places, start = [], 0
        words = tuple(text.split())
        for word in words:
            alone = tuple(encode(word))
            count = len(content(alone, encode))
            places.append(tuple(inner[start : start + count]))
            start += count
        if start != len(inner):
            raise ValueError(f"source, target: {text!r} is {len(inner)} tokens, but its words are {start} one by one; "
                             "write it in plain words with spaces between, and shorter where it is long.")
        return cls(words, tuple(places), ids)

    def tokens_of(self, name: str, phrase: str) -> list[int]:
        """The numbers of the tokens of all words of a phrase, wherever they stand in the prompt.

        Raises:
            ValueError: a word does not stand in it.
        """
        found = []
        for word in phrase.split():
            here = [i for i, own in enumerate(self.words) if plain(own) == plain(word)]
            if not here:
                raise ValueError(f"{name}: {word!r} is no word of {' '.join(self.words)!r}; give one of its words.")
            found += [place for i in here for place in self.places[i]]
        return found


def plain(word: str) -> str:
    """A word without the punctuation around it, in lower case."""
    return word.strip(".,;:!?\"'()").lower() or word


def content(ids: Sequence[Hashable], encode: Callable[[str], Sequence[Hashable]]) -> list[int]:
    """The numbers of the tokens that stand for words: in each window those between its begin and its end."""
    empty = tuple(encode(""))
    begin, end, window = empty[0], empty[1], len(empty)
    found = []
    for start in range(0, len(ids), window):
        for place in range(start + (ids[start] == begin), min(start + window, len(ids))):
            if ids[place] == end:
                break
            found.append(place)
    return found


@dataclass(frozen=True, eq=False)
class Alignment:
    """How the tokens of two prompts belong together.

    Args:
        mapping: M [source tokens, target tokens]: the target's map of token j is sum_i A_i M_ij.
        taken: [target tokens], 1 where the map is the source's, 0 where a token is new and keeps its own.
    """

    mapping: Tensor
    taken: Tensor


def align(source: TextTokens, target: TextTokens, edit: str = "auto") -> Alignment:
    """The alignment of two prompts.

    Args:
        edit: "swap", "refine", or "auto": a swap where both have the same number of words.

    Raises:
        ValueError: a swap of prompts with other numbers of words, or an unknown edit.
    """
    if edit not in EDITS:
        raise ValueError(f"edit: expected one of {', '.join(EDITS)}, but got {edit!r}.")
    same = len(source.words) == len(target.words)
    if edit == "swap" and not same:
        raise ValueError(f"target: has {len(target.words)} words, but source {len(source.words)}, and a swap takes "
                         "word for word; write as many, or choose refine.")
    mapping, taken = torch.zeros(len(source.ids), len(target.ids)), torch.zeros(len(target.ids))
    if same and edit != "refine":
        for theirs, ours in zip(source.places, target.places, strict=True):
            shape = len(theirs), len(ours)
            pair = torch.eye(len(ours)) if shape[0] == shape[1] else torch.full(shape, 1 / len(ours))
            mapping[torch.tensor(theirs)[:, None], torch.tensor(ours)] = pair
            taken[list(ours)] = 1
    else:
        for i, j in common(source, target):
            mapping[i, j] = taken[j] = 1
    marks(source, target, mapping, taken)
    return Alignment(mapping, taken)


def common(source: TextTokens, target: TextTokens) -> list[tuple[int, int]]:
    """The numbers of the tokens of a longest common subsequence of the words' tokens: the global alignment of the
    authors' code, in which a gap costs nothing and unequal tokens are never paired."""
    a, b = ([place for places in text.places for place in places] for text in (source, target))
    length = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i in reversed(range(len(a))):
        for j in reversed(range(len(b))):
            equal = source.ids[a[i]] == target.ids[b[j]]
            length[i][j] = length[i + 1][j + 1] + 1 if equal else max(length[i + 1][j], length[i][j + 1])
    pairs, i, j = [], 0, 0
    while i < len(a) and j < len(b):
        if source.ids[a[i]] == target.ids[b[j]]:
            pairs.append((a[i], b[j]))
            i, j = i + 1, j + 1
        elif length[i + 1][j] >= length[i][j + 1]:
            i += 1
        else:
            j += 1
    return pairs


def marks(source: TextTokens, target: TextTokens, mapping: Tensor, taken: Tensor) -> None:
    """Fill in what stands for no word: the begin is the begin, and what stands behind the words goes by its distance
    from the last of them. Marks between two windows keep their own map."""
    theirs, ours = (max([0, *(place for places in text.places for place in places)]) for text in (source, target))
    mapping[0, 0] = taken[0] = 1
    for j in range(ours + 1, len(target.ids)):
        mapping[min(theirs + j - ours, len(source.ids) - 1), j] = taken[j] = 1


def token_weights(target: TextTokens, weights: str) -> Tensor:
    """The factor of each token's map, from a text such as "purple: 2, sky: 0.5" (Hertz et al., attention re-weighting).

    Raises:
        ValueError: it reads otherwise, or names a word that is none of the target's.
    """
    factors = torch.ones(len(target.ids))
    for part in filter(None, (part.strip() for part in weights.replace("\n", ",").split(","))):
        word, colon, number = part.rpartition(":")
        try:
            factor = float(number)
        except ValueError:
            factor = float("nan")
        if not colon or not word.strip() or not -100 <= factor <= 100:
            raise ValueError(f"weights: expected words of the target with a number from -100 to 100, such as purple: "
                             f"2, sky: 0.5, but got {part!r}.")
        factors[target.tokens_of("weights", word)] = factor
    return factors


def marked(name: str, text: TextTokens, phrase: str) -> Tensor:
    """[tokens], 1 where a token belongs to a word of the phrase. Raises ValueError where one does not stand in it."""
    found = torch.zeros(len(text.ids))
    found[text.tokens_of(name, phrase)] = 1
    return found
