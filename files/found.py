"""Files in the host's models folders: listed, found and watched as the host does, links included.

What is linked inside a models folder was put there by its owner and is opened; a *name* that
leads out of the folder (``../x``, ``/x``) is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

#: Folders that hold no models of their own.
PASSED_OVER = frozenset({".git"})


def walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every folder under ``root`` with the names of its files, links followed, no circle walked twice."""
    above: dict[str, frozenset[str]] = {}
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        seen = above.get(os.path.dirname(folder), frozenset())
        above[folder] = seen | {real}
        folders[:] = [] if real in seen else sorted(set(folders) - PASSED_OVER)
        if real not in seen:
            yield Path(folder), [name for name in sorted(names) if os.path.isfile(os.path.join(folder, name))]


def listed_files(folders: Iterable[Path], suffixes: Iterable[str], without: Iterable[str] = ()) -> list[str]:
    """Names, with slashes, of the files with one of ``suffixes`` in any of ``folders``.

    Args:
        without: folders right inside of these that are left out.
    """
    suffixes, without, found = tuple(suffixes), set(without), set()
    for root in map(Path, folders):
        for folder, names in walk(root):
            inner = folder.relative_to(root)
            if not (inner.parts and inner.parts[0] in without):
                found |= {(inner / name).as_posix() for name in names if Path(name).suffix.lower() in suffixes}
    return sorted(found)


def located(folders: Iterable[Path], name: str, label: str = "model") -> Path:
    """The file or folder ``name`` in the first of ``folders`` that has it; it may be a link.

    Raises:
        FileNotFoundError: it is in none of them.
        ValueError: the name leads out of them.
    """
    folders = [Path(folder) for folder in folders]
    plain = name.replace("\\", "/") if isinstance(name, str) else ""
    if plain.startswith("/") or ".." in plain.split("/") or re.match("[A-Za-z]:", plain):
        raise ValueError(f"{label}: '{name}' leaves the models folder; use a name inside it.")
    for folder in folders:
        # A NUL or a name too long is no file's.
        if plain and "\0" not in plain and os.path.exists(folder / plain):
            return folder / plain
    looked = " or ".join(str(folder) for folder in folders)
    raise FileNotFoundError(f"{label}: '{name}' is not in {looked}; put it there and reload the page.")


def stamp(path: Path) -> tuple:
    """A value that changes when a file, or any file in a folder, is written again or replaced."""
    if not path.is_dir():
        files = [path]
    else:
        files = [folder / name for folder, names in walk(path) for name in names]
    return tuple((str(file), *_version(file)) for file in files)


def _version(file: Path) -> tuple[int, ...]:
    try:
        status = file.stat()
    except (OSError, ValueError):
        return ()
    return status.st_mtime_ns, status.st_size
