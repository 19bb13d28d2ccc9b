"""Where a standalone run reads and writes, and what it wrote."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Folders:
    """``input`` is searched for files named in a graph; ``saved`` lists what was written."""

    input: Path
    output: Path
    saved: list[Path] = field(default_factory=list)

    def free_path(self, prefix: str, suffix: str) -> Path:
        """The next unused ``<output>/<prefix>_00001_<suffix>``, as the host counts; noted as saved.

        Raises:
            ValueError: the prefix leaves the output folder.
        """
        stem = (self.output / prefix).resolve()
        if not stem.is_relative_to(self.output.resolve()):
            raise ValueError(f"filename_prefix: '{prefix}' leaves the output folder.")
        stem.parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while (path := stem.with_name(f"{stem.name}_{number:05}_{suffix}")).exists():
            number += 1
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
