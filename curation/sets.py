"""Where clips come from: files and folders, or one of the public sets that lie on this machine."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files.names import safe_name
from ..video.listing import is_video, videos_in
from .standard import stills_in


@dataclass(frozen=True)
class Found:
    """A clip to look at: a video file or a folder of pictures, with the cells that its set gives."""

    name: str
    source: Path
    cells: dict[str, str] = field(default_factory=dict)


def plain(places: Sequence[Path]) -> list[Found]:
    """Video files, and the videos in folders.

    Raises:
        ValueError: a place that is neither.
    """
    found = []
    for place in places:
        if not place.exists():
            raise ValueError(f"curate: {place} is not there.")
        paths = videos_in(place) if place.is_dir() else [place]
        found += [Found(path.stem, path) for path in paths]
    return found


def davis(folder: Path) -> list[Found]:
    """DAVIS: ``JPEGImages/480p/NAME/00000.jpg``, or any other resolution below JPEGImages, the smallest first."""
    images = folder / "JPEGImages"
    if not images.is_dir():
        raise ValueError(f"{folder}: is no DAVIS; it has no folder JPEGImages.")
    sizes = sorted(path for path in images.iterdir() if path.is_dir())
    clips = sorted(path for path in (sizes[0].iterdir() if sizes else ()) if path.is_dir() and stills_in(path))
    return [Found(clip.name, clip) for clip in clips]


#: Columns of loveu-tgve's table.
TGVE = {"Our GT caption": "caption", "Style Change Caption": "style_prompt", "Object Change Caption": "subject_prompt",
        "Background Change Caption": "background_prompt", "Multiple Changes Caption": "combination_prompt"}  # fmt: skip


def loveu_tgve(folder: Path) -> list[Found]:
    """loveu-tgve-2023: its table beside ``PART/480p_videos/NAME.mp4`` or ``PART/480p_frames/NAME``.

    Rows without a caption head the parts of the table.
    """
    tables = sorted(folder.glob("LOVEU-TGVE*.csv"))
    if not tables:
        raise ValueError(f"{folder}: is no loveu-tgve; it has no LOVEU-TGVE-2023_Dataset.csv.")
    found = []
    for row in csv.DictReader(io.StringIO(tables[0].read_text(encoding="utf-8-sig"))):
        name = (row.get("Video name") or "").strip()
        if not name or not (row.get("Our GT caption") or "").strip():
            continue
        here = [path for pattern in (f"*/480p_videos/{name}.mp4", f"*/480p_frames/{name}", f"**/{name}.mp4")
                for path in sorted(folder.glob(pattern))]  # fmt: skip
        # A video that is not there is named by its row.
        source = here[0] if here else folder / f"{name}.mp4"
        found.append(Found(name, source, {ours: (row.get(theirs) or "").strip() for theirs, ours in TGVE.items()}))
    return found


#: Types of edits by the words that sets have for them.
_TYPES = {"style": "style", "object": "subject", "subject": "subject", "foreground": "subject", "attribute": "subject",
          "shape": "subject", "background": "background", "scene": "background", "event": "event", "motion": "event",
          "compound": "combination", "multiple": "combination", "combination": "combination",
          "overall": "combination"}  # fmt: skip


def tabled(folder: Path, label: str) -> list[Found]:
    """Sets of videos beside a JSON or CSV table whose rows name a video, a caption and edits: BalanceCC, RAVE's.

    Keys are known by the words in them: *name* or *video*, *original* or *caption*, and for an edit *target* or
    *prompt* with *type*, in rows of their own or in a list inside.

    Raises:
        ValueError: no videos; or a table in YAML and none that says anything of a video, for the clips would be
            without prompts.
    """
    videos = {path.stem: path for path in sorted(folder.rglob("*")) if is_video(path)}
    if not videos:
        raise ValueError(f"{folder}: is no {label}; it holds no videos.")
    cells: dict[str, dict[str, str]] = {name: {} for name in videos}
    for row in _rows(folder):
        lower = {str(key).lower(): value for key, value in row.items()}
        name = _words(lower, lambda key: "name" in key or key in ("video", "id", "file"))
        name = name if name in videos else Path(name).stem
        if name not in videos:
            continue
        mine = cells[name]
        mine.setdefault("caption", _words(lower, lambda key: "original" in key or "caption" in key or "source" in key))
        edits = [value for value in lower.values() if isinstance(value, list)] or [[row]]
        for edit in (edit for group in edits for edit in group if isinstance(edit, dict)):
            _add_edit(mine, {str(key).lower(): value for key, value in edit.items()})
    # Beside a table that is read, a YAML file may be anybody's settings.
    unread = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".yaml", ".yml"))
    if unread and not any(value for mine in cells.values() for value in mine.values()):
        raise ValueError(f"{unread[0]}: is YAML, but captions and prompts of {label} are read from .json and .csv "
                         "tables, and none here names its videos; convert it to JSON or CSV.")  # fmt: skip
    return [Found(name, path, {key: value for key, value in cells[name].items() if value})
            for name, path in videos.items()]  # fmt: skip


def _add_edit(cells: dict[str, str], edit: dict[str, Any]) -> None:
    kind = _words(edit, lambda key: "type" in key).lower()
    wanted = next((ours for theirs, ours in _TYPES.items() if theirs in kind), "")
    words = _words(edit, lambda key: "target" in key or ("prompt" in key and "original" not in key))
    if wanted and words:
        cells.setdefault(f"{wanted}_prompt", words)


def _words(row: dict[str, Any], fits: Callable[[str], bool]) -> str:
    return next((value.strip() for key, value in row.items() if fits(key) and isinstance(value, str) and value.strip()),
                "")  # fmt: skip


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Objects of all tables in a folder; a mapping of names to objects counts as rows with that name."""
    for path in sorted([*folder.rglob("*.json"), *folder.rglob("*.csv")]):
        try:
            text = path.read_text(encoding="utf-8-sig")
            read = json.loads(text) if path.suffix == ".json" else list(csv.DictReader(io.StringIO(text)))
        except ValueError as error:
            raise ValueError(f"{path}: is no readable table.") from error
        if isinstance(read, dict):
            lists = [value for value in read.values() if isinstance(value, list)]
            read = lists[0] if len(lists) == 1 else [
                {"name": key, **value} for key, value in read.items() if isinstance(value, dict)]  # fmt: skip
        yield from (row for row in read if isinstance(row, dict))


#: The sets by name.
SETS: dict[str, Callable[[Path], list[Found]]] = {
    "loveu-tgve": loveu_tgve, "balancecc": lambda folder: tabled(folder, "BalanceCC"),
    "rave": lambda folder: tabled(folder, "RAVE's set"), "davis": davis,
}  # fmt: skip


def find(places: Sequence[Path], kind: str | None) -> list[Found]:
    """Clips of all places, each under a name of its own that a file can have.

    Raises:
        ValueError: a place that holds none.
    """
    found = plain(places) if kind is None else [clip for place in places for clip in SETS[kind](place)]
    named: dict[str, Found] = {}
    for clip in found:
        stem = safe_name(clip.name)
        name = next(name for number in range(1, len(found) + 2)
                    if (name := stem if number == 1 else f"{stem}_{number}") not in named)  # fmt: skip
        named[name] = Found(name, clip.source, clip.cells)
    if not named:
        raise ValueError(f"curate: no videos in {', '.join(map(str, places))}.")
    return list(named.values())
