"""Where a standalone run reads and writes, and what it wrote."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from ..files.names import free_path


@dataclass
class Folders:
    """``input`` is searched for files named in a graph; ``saved`` lists what was written."""

    input: Path
    output: Path
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
