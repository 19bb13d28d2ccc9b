"""Where the running program reads and writes what users name, and what it wrote."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from .names import free_path


@dataclass
class Folders:
    """``input`` is searched for files named in a graph; ``saved`` lists what was written.

    Args:
        anywhere: files are read wherever the user says, not inside of these folders alone.
    """

    input: Path
    output: Path
    anywhere: bool = True
    saved: list[Path] = field(default_factory=list)

    def free_path(self, prefix: str, suffix: str, size: tuple[int, int] = (0, 0),
                  label: str = "filename_prefix") -> Path:
        """The next unused ``<output>/<prefix>_00001_<suffix>``, as the host counts; noted as saved.

        Raises:
            ValueError: as ``files.names.free_path``.
        """
        path = free_path(self.output, prefix, f"_{suffix}", size=size, label=label)
        self.saved.append(path)
        return path

    def reading(self, name: str) -> tuple[str, list[Path]]:
        """A name, and the folders that it is looked for in; both for ``video.sequences.names.found``."""
        folders = [self.input, self.output]
        given = Path(name.strip()).expanduser()
        if self.anywhere and "\0" not in name and (given.is_absolute() or ".." in given.parts):
            name = os.path.abspath(self.input / given)
            folders.append(Path(Path(name).anchor))
        return name, folders

    def find(self, name: str) -> Path:
        """A file named in a graph: as it stands, or in the input folder.

        Raises:
            FileNotFoundError: it is at neither place.
        """
        for path in (Path(name).expanduser(), self.input / name):
            if path.is_file():
                return path
        raise FileNotFoundError(f"file: '{name}' is not here and not in {self.input}.")


_current: ContextVar[Folders] = ContextVar("steadyedit_folders")


def current() -> Folders:
    """The folders of the run under way."""
    return _current.get()


@contextmanager
def using(folders: Folders) -> Iterator[Folders]:
    """Let ``current()`` be these folders inside the ``with``."""
    token = _current.set(folders)
    try:
        yield folders
    finally:
        _current.reset(token)
