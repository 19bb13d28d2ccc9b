"""A vision-language model's answer against the schema: what it says in the right words, and what is wrong."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from .schema import CLASSES, COMPLEXITIES, EDITS, HARDEST, LABELS

#: What models say in place of the paper's words.
ALIASES = {
    "person": "people", "human": "people", "man": "people", "woman": "people", "child": "people", "animals": "animal",
    "pet": "animal", "bird": "animal", "vehicles": "vehicle", "car": "vehicle", "transportation": "vehicle",
    "object": "artifact", "artefact": "artifact", "landscape": "environment", "nature": "natural", "outdoor": "natural",
    "city": "urban", "street": "urban", "interior": "indoor", "blurry": "blur or blank", "blurred": "blur or blank",
    "blur": "blur or blank", "blank": "blur or blank", "sport": "sports", "everyday": "daily", "cook": "cooking",
    "documentaries": "documentary",
}  # fmt: skip
_FENCE = re.compile(r"```(?:json)?")


def found_in(answer: str, keys: Iterable[str]) -> dict[str, Any]:
    """The values of ``keys`` in an answer: of the JSON in it, whatever stands around that, else of ``key: value``.

    Cut off, single quoted and unquoted JSON is read as far as it goes.
    """
    answer, keys = _FENCE.sub(" ", answer), tuple(keys)
    whole = [values for start in re.finditer(r"\{", answer) if (values := _object(answer[start.start() :]))]
    best = max(whole, key=lambda values: sum(_key(name) in keys for name in values), default={})
    found = {_key(name): value for name, value in best.items() if _key(name) in keys}
    for key in keys:
        if key not in found and (value := _after(answer, key)) is not None:
            found[key] = value
    return found


def _object(text: str) -> Mapping[str, Any] | None:
    """The object that a text begins with; None where it cannot be read."""
    try:
        value = json.JSONDecoder().raw_decode(text)[0]
    except ValueError:
        end = _closing(text)
        try:
            value = ast.literal_eval(re.sub(r",\s*([}\]])", r"\1", text[:end])) if end else None
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            value = None
    return value if isinstance(value, dict) and all(isinstance(key, str) for key in value) else None


def _closing(text: str) -> int:
    """Behind the brace that closes the first one; 0 where none does."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "{") - (letter == "}")
        if not depth:
            return place + 1
    return 0


def _after(answer: str, key: str) -> Any:
    """What follows a key that stands as a word of its own: ``subject: people``, ``"subject": {...}``."""
    words = key.replace("_", "[ _-]")
    match = re.search(rf"(?:^|[\s\"'*{{,]){words}[\"'*\s]*[:=]\s*", answer, re.IGNORECASE)
    if match is None:
        return None
    rest = answer[match.end() :]
    if rest.startswith("{"):
        return _object(rest)
    quoted = re.match(r"[\"'*]+(.*?)[\"'](?=\s*(?:[,}\n]|$))", rest, re.DOTALL)
    plain = re.match(r"[^\n,;}]*" if key != "caption" else r"[^\n}]*", rest)
    words = (quoted[1] if quoted else plain[0] if plain else "").strip(" \"'*\t")
    return words or None


def _key(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())


#: Cells by column, and what is wrong with the others by column, in words.
Parsed = tuple[dict[str, str], dict[str, str]]


def labels_of(answer: str) -> Parsed:
    """Caption, classes and complexities in an answer; cells that are wrong or missing are left out and told."""
    found = found_in(answer, LABELS)
    cells: dict[str, str] = {}
    wrong: dict[str, str] = {}
    for column in LABELS:
        value = _first(found.get(column))
        if column == "caption":
            cell = words_of(value)
        else:
            cell = class_of(value, CLASSES[column]) if column in CLASSES else level_of(value, len(COMPLEXITIES))
        if cell:
            cells[column] = cell
        else:
            wrong[column] = f"{column} is missing" if value in (None, "") else f"{column} is '{str(value)[:40]}'"
    return cells, wrong


def prompts_of(answer: str, caption: str) -> Parsed:
    """The same of an answer with edited captions by type, each with a difficulty."""
    found = found_in(answer, EDITS)
    cells: dict[str, str] = {}
    wrong: dict[str, str] = {}
    for edit in EDITS:
        value = _first(found.get(edit))
        inner = {_key(name): part for name, part in value.items()} if isinstance(value, dict) else {"prompt": value}
        words = words_of(inner.get("prompt") or inner.get("caption"))
        if not words:
            wrong[f"{edit}_prompt"] = f"{edit} is missing"
        elif words.strip(".").lower() == caption.strip(".").lower():
            wrong[f"{edit}_prompt"] = f"{edit} changes nothing"
        else:
            cells[f"{edit}_prompt"] = words
        if level := level_of(inner.get("difficulty"), HARDEST):
            cells[f"{edit}_difficulty"] = level
        elif words:
            wrong[f"{edit}_difficulty"] = f"{edit} has no difficulty from 1 to {HARDEST}"
    return cells, wrong


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value


def words_of(value: Any) -> str:
    """A sentence of more than one word in one line; nothing for anything else."""
    words = " ".join(value.split()).strip("\"'* ") if isinstance(value, str) else ""
    return words if " " in words and "{" not in words else ""


def class_of(value: Any, classes: tuple[str, ...]) -> str:
    """The one class that a value names, under its own or another name; nothing where it names none or several."""
    if not isinstance(value, str):
        return ""
    words = re.sub(r"[^a-z ]+", " ", value.lower())
    if (plain := " ".join(words.split())) in classes:
        return plain
    named = {ALIASES.get(word, word) for word in words.split()} & set(classes)
    return named.pop() if len(named) == 1 else ""


def level_of(value: Any, highest: int) -> str:
    """A level from 1 on as a digit, of ``2``, ``"2/3"``, ``"L2"``, ``"moderate"``; nothing for anything else."""
    if isinstance(value, bool) or value is None:
        return ""
    if isinstance(value, (int, float)):
        return str(int(value)) if value == int(value) and 1 <= value <= highest else ""
    text = str(value).lower()
    if highest == len(COMPLEXITIES) and (named := [n for n, word in enumerate(COMPLEXITIES, 1) if word in text]):
        return str(named[0]) if len(named) == 1 else ""
    match = re.fullmatch(rf"\D*([1-{highest}])(?:\.0+)?(?:\s*(?:/|of|out of)\s*{highest})?[^\d]*", text)
    return match[1] if match else ""
