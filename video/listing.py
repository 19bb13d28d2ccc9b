"""Which files of a folder are videos, by their names."""

from __future__ import annotations

from pathlib import Path

#: Endings of files that hold moving pictures.
SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".mpg", ".mpeg", ".ts", ".wmv", ".flv"})


def videos_in(folder: Path) -> list[Path]:
    """Videos that lie in a folder itself, by name.

    Raises:
        ValueError: there is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder.")
    return sorted(path for path in folder.iterdir() if is_video(path))


def is_video(path: Path) -> bool:
    """A file that is not hidden and whose ending is a video's."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
