"""``steadyedit study --analyse``: what people preferred, with intervals over the people."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import median

import numpy as np

#: What an answer may be; a video that a browser could not play is unseen and counts for nothing.
SIDES, TIE, UNSEEN = ("left", "right"), "tie", "unseen"
DRAWS, SEED = 10_000, 0
COLUMNS = ("participant", "pair", "question", "left", "right", "answer", "seconds", "at")


@dataclass(frozen=True)
class Answer:
    """One answer, with the methods in the place of the videos' names; ``chosen`` is None for a tie."""

    participant: str
    pair: str
    clip: str
    question: str
    left: str
    right: str
    chosen: str | None
    seconds: float
    at: str


def read_key(path: Path) -> dict:
    """The key that ``make`` wrote.

    Raises:
        ValueError: it is none.
    """
    try:
        key = json.loads(path.read_text(encoding="utf-8"))
        if not {"study", "methods", "questions", "pairs", "videos"} <= key.keys():
            raise KeyError
    except (ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"--key {path}: is no key of a study; expected the file that `study` wrote beside its folder."
                         ) from error  # fmt: skip
    return key


def read_answers(paths: Iterable[Path], key: dict) -> list[Answer]:
    """Answers of all files, each once: where a person answered anew, the last counts.

    Raises:
        ValueError: a file of another study, or one that is damaged; it names the file.
    """
    newest: dict[tuple[str, str, str], Answer] = {}
    for path in paths:
        for row in _rows(path):
            if row.get("study") != key["study"]:
                raise ValueError(f"{path}: answers study {row.get('study')!r}, but the key is of {key['study']!r}.")
            if (answer := _answer(path, row, key)) is None:
                continue
            place = answer.participant, answer.pair, answer.question
            if place not in newest or newest[place].at <= answer.at:
                newest[place] = answer
    return list(newest.values())


def _rows(path: Path) -> list[dict]:
    words = path.read_text(encoding="utf-8-sig")
    try:
        if path.suffix.lower() == ".json":
            rows = json.loads(words)["answers"]
        else:
            rows = list(csv.DictReader(io.StringIO(words)))
        if not all({"study", *COLUMNS} <= row.keys() for row in rows):
            raise KeyError
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: holds no answers; expected the JSON or CSV that the study's page saves.") from error
    return rows


def _answer(path: Path, row: dict, key: dict) -> Answer | None:
    """A row in the methods' names; None for what was not seen."""
    pair, given = key["pairs"].get(row["pair"]), row["answer"]
    sides = [row["left"], row["right"]]
    try:
        if pair is None or row["question"] not in key["questions"] or given not in (*SIDES, TIE, UNSEEN):
            raise ValueError
        if sorted(sides) != sorted(pair["videos"]):
            raise ValueError
        seconds = float(row["seconds"])
    except (TypeError, ValueError) as error:
        cells = ", ".join(f"{column} {row[column]!r}" for column in ("pair", "question", "answer"))
        raise ValueError(f"{path}: an answer does not fit the key: {cells}.") from error
    if given == UNSEEN:
        return None
    left, right = (key["videos"][name]["method"] for name in sides)
    chosen = None if given == TIE else (left, right)[SIDES.index(given)]
    return Answer(str(row["participant"]), row["pair"], pair["clip"], row["question"], left, right, chosen, seconds,
                  str(row["at"]))  # fmt: skip


@dataclass(frozen=True)
class Preference:
    """How two methods compare in one question. Rates are shares of the answers, intervals hold 95 %.

    Args:
        preferred: share of ``one``, a tie as a half to each.
    """

    one: str
    other: str
    question: str
    answers: int
    participants: int
    rates: dict[str, float]
    intervals: dict[str, list[float] | None]


def preferences(answers: Sequence[Answer], methods: Sequence[str], questions: Iterable[str]) -> list[Preference]:
    """All pairs of methods that were compared, by question."""
    found = []
    for one, other in combinations(methods, 2):
        for question in questions:
            asked = [answer for answer in answers
                     if answer.question == question and {answer.left, answer.right} == {one, other}]  # fmt: skip
            if asked:
                found.append(_preference(one, other, question, asked))
    return found


def _preference(one: str, other: str, question: str, asked: Sequence[Answer]) -> Preference:
    people = sorted({answer.participant for answer in asked})
    # By person: preferred one, tie, preferred the other.
    counts = np.zeros((len(people), 3))
    for answer in asked:
        counts[people.index(answer.participant), 1 if answer.chosen is None else 2 * (answer.chosen == other)] += 1
    names = ("one", "tie", "other", "preferred")
    weights = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0.5, 0]]).T
    rates = dict(zip(names, (counts.sum(0) @ weights / counts.sum()).tolist(), strict=True))
    intervals = dict(zip(names, bootstrap(counts @ weights, counts.sum(1)), strict=True))
    return Preference(one, other, question, len(asked), len(people), rates, intervals)


def bootstrap(parts: np.ndarray, sizes: np.ndarray) -> list[list[float] | None]:
    """95 % percentile intervals of shares, drawing people anew with replacement.

    A draw's share is sum_p parts_p / sum_p sizes_p over the drawn people p: all answers of a person come together,
    for they are not independent.

    Args:
        parts: [people, shares] counts. sizes: [people] answers of each.

    Returns:
        [low, high] of each share; None for one person, who says nothing of others.
    """
    people = len(sizes)
    if people < 2:
        return [None] * parts.shape[1]
    drawn = np.random.default_rng(SEED).multinomial(people, np.full(people, 1 / people), DRAWS)
    shares = (drawn @ parts) / (drawn @ sizes)[:, None]
    return np.percentile(shares, [2.5, 97.5], axis=0).T.tolist()


def analyse(paths: Sequence[Path], key_path: Path, json_path: Path | None = None) -> str:
    """Preferences by pair of methods and question, as a table for a reader.

    Args:
        json_path: where all numbers are written too, each clip's among them.

    Raises:
        ValueError: no answers, or files that do not belong together.
    """
    key = read_key(key_path)
    answers = read_answers(paths, key)
    if not answers:
        raise ValueError("--analyse: the files hold no answer to a pair that was seen.")
    found = preferences(answers, key["methods"], key["questions"])
    if json_path:
        from ..files.writing import write_bytes

        clips = sorted({answer.clip for answer in answers})
        by_clip = {clip: [vars(p) for p in preferences([a for a in answers if a.clip == clip], key["methods"],
                                                       key["questions"])] for clip in clips}  # fmt: skip
        whole = {"study": key["study"], "preferences": [vars(p) for p in found], "clips": by_clip}
        write_bytes(json_path, json.dumps(whole, indent=1, ensure_ascii=False).encode())
    return "\n".join([*_about(answers, key), *_table(found)])


def _about(answers: Sequence[Answer], key: dict) -> list[str]:
    """Who answered, how long it took, and whether a side was favoured."""
    people = {answer.participant for answer in answers}
    decided = [answer for answer in answers if answer.chosen is not None]
    left = sum(answer.chosen == answer.left for answer in decided)
    lines = [f"{len(answers)} answers by {len(people)} participants to {len({a.pair for a in answers})} of "
             f"{len(key['pairs'])} pairs; {median(a.seconds for a in answers):.1f} s an answer (median)."]  # fmt: skip
    if decided:
        lines.append(f"The left video was chosen in {100 * left / len(decided):.0f} % of {len(decided)} choices.")
    return [*lines, "Intervals hold 95 %, by bootstrap over participants; preferred counts a tie as a half."]


def _table(found: Sequence[Preference]) -> list[str]:
    lines = []
    for index, row in enumerate(found):
        if not index or (row.one, row.other) != (found[index - 1].one, found[index - 1].other):
            heads = "".join(f"{head[:20]:>22}" for head in (row.one, "tie", row.other, "preferred"))
            lines += ["", f"{row.one} against {row.other}, in %", f"{'question':14}{'answers':>8}{'people':>8}{heads}"]
        cells = "".join(f"{_cell(row.rates[name], row.intervals[name]):>22}" for name in row.rates)
        lines.append(f"{row.question[:13]:14}{row.answers:>8}{row.participants:>8}{cells}")
    return lines


def _cell(rate: float, interval: list[float] | None) -> str:
    return f"{100 * rate:.1f} " + (f"[{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else "[-]")
