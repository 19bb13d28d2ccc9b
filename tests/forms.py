"""Where the editor's form of each shipped graph lies: under its title, with the graph's name in brackets."""

from __future__ import annotations

import re
from pathlib import Path

#: Among the folders that the host asks packs for; its template browser shows the files' names.
FOLDER = Path(__file__).resolve().parents[1] / "workflows"


def name_of(path: Path) -> str:
    """The graph's name: ``TITLE (NAME).json``, or ``NAME.json`` of one that has no title yet."""
    named = re.fullmatch(r".+ \((\w+)\)", path.stem)
    return named[1] if named else path.stem


def editor_forms() -> dict[str, Path]:
    """The file of each graph, by the graph's name."""
    return dict(sorted((name_of(path), path) for path in FOLDER.glob("*.json")))


def editor_form(name: str) -> Path:
    """The file of a graph; of one that has none, the file to make."""
    return editor_forms().get(name, FOLDER / f"{name}.json")
