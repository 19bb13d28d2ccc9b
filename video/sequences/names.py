"""Which files are a sequence: ``shot_####.exr``, ``shot_%04d.png``, ``shot.$F4.exr``, a folder, or one of its files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ...files.names import inside, with_tokens

#: Endings that ``picture.read_picture`` knows.
ENDINGS = (".exr", ".png", ".tif", ".tiff", ".jpg", ".jpeg", ".webp", ".bmp")
_PLACE = re.compile(r"#+|%0?(\d*)d|\$F(\d*)")


@dataclass(frozen=True)
class Pattern:
    """Files ``<before><number><after>`` in a folder.

    Args:
        digits: least number of digits; shorter numbers have zeros in front, longer ones are longer.
    """

    folder: Path
    before: str
    digits: int
    after: str

    def __str__(self) -> str:
        return f"{self.before}{'#' * self.digits}{self.after}"

    def name(self, number: int) -> str:
        """The file's name of a frame number."""
        return f"{self.before}{number:0{self.digits}d}{self.after}"

    def path(self, number: int) -> Path:
        return self.folder / self.name(number)

    def numbers(self) -> list[int]:
        """Frame numbers that are there, in order."""
        try:
            names = os.listdir(self.folder)
        except OSError:
            return []
        return sorted(n for n in map(self._number, names) if n is not None)

    def _number(self, name: str) -> int | None:
        digits = name[len(self.before) : len(name) - len(self.after)]
        if not (name.startswith(self.before) and name.endswith(self.after) and digits.isascii() and digits.isdigit()):
            return None
        return int(digits) if self.name(int(digits)) == name else None


def pattern_of(name: str, label: str = "name") -> tuple[str, int, str] | None:
    """(before, digits, after) of a file name with a place for the number; None where it has none.

    Raises:
        ValueError: it has more than one.
    """
    places = list(_PLACE.finditer(name))
    if len(places) > 1:
        raise ValueError(f"{label}: '{name}' has more than one place for the frame number; keep one, such as ####.")
    if not places:
        return None
    place = places[0]
    digits = len(place[0]) if place[0].startswith("#") else int(place[1] or place[2] or 1)
    return name[: place.start()], min(digits, 20), name[place.end() :]


def found(text: str, folders: Iterable[Path], label: str = "name") -> Pattern:
    """The sequence that a user names.

    Args:
        text: a pattern, a folder, or one file; relative to one of ``folders``, or below it.
        folders: looked in, in this order.

    Raises:
        FileNotFoundError: nothing of that name is there.
        ValueError: the name leaves the folders, or a folder holds several sequences.
    """
    folders = [Path(folder) for folder in folders]
    for path in _places(text, folders, label):
        if path.is_dir():
            return _only_one(path, label)
        if not path.is_file() and (parts := pattern_of(path.name, label)):
            pattern = Pattern(path.parent, *parts)
            if pattern.numbers():
                return pattern
        elif path.is_file():
            return _around(path, label)
    looked = " or ".join(map(str, folders))
    raise FileNotFoundError(f"{label}: there is no sequence '{text}' in {looked}; put it there, or a link to its "
                            "folder, and give a name such as shot_####.exr.")


def _places(text: str, folders: list[Path], label: str) -> Iterator[Path]:
    plain = text.strip().strip("\"'").replace("\\", "/") if isinstance(text, str) else ""
    if not plain or "\0" in plain:
        raise ValueError(f"{label}: names no sequence; give a name such as shot_####.exr, a folder, or one of its "
                         "files.")
    for folder in folders:
        path = os.path.normpath(os.path.join(folder, plain))
        if Path(path).is_relative_to(os.path.abspath(folder)):
            yield Path(path)
        elif folder == folders[-1] and not os.path.isabs(plain):
            raise ValueError(f"{label}: '{text}' leaves the folder {folder}; use a name inside it.")


def sequences_in(folder: Path) -> list[Pattern]:
    """All sequences of pictures of a folder, by name."""
    heads: dict[tuple[str, str], list[str]] = {}
    for name in os.listdir(folder):
        match = re.fullmatch(r"(.*?)(\d+)(\D*)", name)
        if match and Path(name).suffix.lower() in ENDINGS and (folder / name).is_file():
            heads.setdefault((match[1], match[3]), []).append(match[2])
    return [Pattern(folder, before, _width(digits), after) for (before, after), digits in sorted(heads.items())]


def _width(digits: list[str]) -> int:
    """Least digits of numbers; zeros in front tell, else the shortest is not padded."""
    padded = [len(text) for text in digits if text.startswith("0")]
    return min(padded or map(len, digits))


def _only_one(folder: Path, label: str) -> Pattern:
    there = sequences_in(folder)
    long = [pattern for pattern in there if len(pattern.numbers()) > 1]
    if len(long) == 1 or len(there) == 1:
        return (long or there)[0]
    if not there:
        raise FileNotFoundError(f"{label}: {folder} holds no numbered pictures ({', '.join(ENDINGS)}).")
    raise ValueError(f"{label}: {folder.name} holds several sequences, {', '.join(map(str, there[:4]))}"
                     f"{' and more' if len(there) > 4 else ''}; name one of them.")


def _around(path: Path, label: str) -> Pattern:
    match = re.fullmatch(r"(.*?)(\d+)(\D*)", path.name)
    if not match:
        raise ValueError(f"{label}: '{path.name}' has no frame number in its name; load one picture by Load Image.")
    for pattern in sequences_in(path.parent):
        if (pattern.before, pattern.after) == match.group(1, 3):
            return pattern
    raise ValueError(f"{label}: '{path.name}' is no picture of a kind that is read ({', '.join(ENDINGS)}).")


def ranges(numbers: Iterable[int]) -> str:
    """Numbers in words: ``1001-1004, 1007``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in runs[:8]]
    return ", ".join(shown) + (" and more" if len(runs) > 8 else "")


def output_paths(folder: Path, name: str, ending: str, numbers: Iterable[int], *, overwrite: bool = False,
                 size: tuple[int, int] = (0, 0), label: str = "name") -> list[Path]:
    """Where the frames of a new sequence go: ``inside`` of the folder, frame n under the number n.

    A name without a place for the number gets ``_####``. Unless ``overwrite``, a sequence that is there already stays:
    the new one is its next version, ``shot_v002_####.exr``.

    Args:
        size: width and height, for the host's tokens such as ``%width%``.

    Raises:
        ValueError: as ``files.names.inside``; the name has another ending, or more than one place for the number.
    """
    text = with_tokens(name.strip(), *size) if isinstance(name, str) else ""
    stem, suffix = os.path.splitext(text)
    if suffix.lower() in ENDINGS and suffix.lower() != ending:
        raise ValueError(f"{label}: {name!r} ends in {suffix}, but {ending} files are to be written; leave the ending "
                         "out, or choose another format.")
    text = stem if suffix.lower() == ending else text
    head, slash, last = text.replace("\\", "/").rpartition("/")
    if not last.strip(". "):
        raise ValueError(f"{label}: {name!r} names no file; give a name such as 'shot_####' or 'films/shot_####'.")
    inside(folder, text, label)  # the user's own words, for the sentence
    before, digits, after = pattern_of(last, label) or (f"{last}_", 4, "")
    for version in ["", *(f"v{number:03d}" for number in range(2, 1000))]:
        begin = before if not version else _versioned(before, version)
        first = inside(folder, f"{head}{slash}{begin}{0:0{digits}d}{after}{ending}", label)
        tail = f"{after}{ending}"
        pattern = Pattern(first.parent, first.name[: len(first.name) - len(tail) - digits], digits, tail)
        if overwrite or not pattern.numbers():
            return [inside(folder, f"{head}{slash}{pattern.name(number)}", label) for number in numbers]
    raise ValueError(f"{label}: '{name}' has 999 versions; give another name.")


def _versioned(before: str, version: str) -> str:
    stem = before.rstrip("._-")
    return f"{stem}_{version}{before[len(stem) :] or '_'}" if stem else f"{version}_"
