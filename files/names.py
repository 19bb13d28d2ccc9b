"""The one place where an output path is made from what a user or a graph names."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

#: What Windows keeps for devices, with any ending.
DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in "0123456789¹²³")}
#: Bytes of a name: file systems take 255, and a number, an ending and a temporary name must fit beside it.
LONGEST = 200
_FORBIDDEN = re.compile(r'[<>:"|?*]')


def free_path(folder: Path, prefix: str, suffix: str, *, size: tuple[int, int] = (0, 0),
              label: str = "filename_prefix") -> Path:
    """The path ``<folder>/<prefix>_<number><suffix>`` with a number above all that are there, from 00001.

    Args:
        folder: what the file stays inside of.
        prefix: a name, with subfolders if it has slashes, and the host's tokens ``%year%``, ``%month%``,
            ``%day%``, ``%hour%``, ``%minute%``, ``%second%``, ``%width%`` and ``%height%``.
        suffix: ending, such as ``.mp4``, or ``_.mp4`` as the host's own nodes have it.
        size: width and height in pixels, for the tokens.
        label: input that ``prefix`` comes from, for the errors.

    Raises:
        ValueError: it names no file, leaves the folder, or holds what no file system takes; one sentence.
            Nothing has been written then.
    """
    stem = inside(folder, with_tokens(prefix, *size), label)
    counted = re.compile(re.escape(os.path.normcase(stem.name)) + r"_(\d+)")
    try:
        found = [counted.match(os.path.normcase(name)) for name in os.listdir(stem.parent)]
    except OSError:
        # Missing, or not to be read: that is told where it is written.
        found = []
    number = 1 + max((int(match[1]) for match in found if match), default=0)
    return stem.with_name(f"{stem.name}_{number:05}{suffix}")


def inside(folder: Path, name: str, label: str) -> Path:
    """``folder / name`` for a file to be written.

    The name is the same on every system: a backslash is a slash, characters that Windows does
    not take become ``_``, and a device's name (``con``) gets one in front.

    Raises:
        ValueError: as ``free_path``.
    """
    shown = repr(name if len(str(name)) <= 60 else f"{name[:57]}...")
    if not isinstance(name, str) or not _is_text(name):
        raise ValueError(f"{label}: {shown} holds a character that no file name can have; use letters and numbers.")
    given = name.replace("\\", "/")
    root = os.path.realpath(folder)
    if given.split("/")[0] == "~":
        # A folder of that name is never what is meant.
        raise ValueError(f"{label}: {shown} leaves the folder {folder}; use a name inside it.")
    if given.rpartition("/")[2] == ".":
        raise ValueError(f"{label}: {shown} names no file; give a name such as 'clip' or 'films/clip'.")
    if os.path.isabs(given):
        given = os.path.relpath(os.path.normpath(given), os.path.abspath(folder)).replace(os.sep, "/")
    given = os.path.normpath(given).replace(os.sep, "/") if given else "."
    if given.split("/")[0] == ".." or given.startswith("/") or re.match("[A-Za-z]:", given):
        raise ValueError(f"{label}: {shown} leaves the folder {folder}; use a name inside it.")
    parts = [_portable(part) for part in given.split("/")]
    if given == "." or not all(parts):
        raise ValueError(f"{label}: {shown} names no file; give a name such as 'clip' or 'films/clip'.")
    if any(len(part.encode()) > LONGEST for part in parts):
        raise ValueError(f"{label}: {shown} is too long for a file name; use {LONGEST} characters or fewer.")
    path = Path(folder, *parts)
    # A link inside the folder may lead out of it.
    if not Path(os.path.realpath(path.parent)).is_relative_to(root):
        raise ValueError(f"{label}: {shown} leaves the folder {folder}; use a name inside it.")
    return path


def safe_name(text: str) -> str:
    """One part of a path from any text, such as a node's id: never empty, never a folder above, never too long."""
    text = "".join(c if c.isalnum() and c.isascii() or c in "._-" else "_" for c in str(text))
    stem, dot, ending = text.rpartition(".")
    if len(text) > LONGEST:
        text = f"{stem[: LONGEST - len(ending) - 1]}{dot}{ending}" if 0 < len(ending) < 16 else text[:LONGEST]
    return _portable(text.lstrip(".")) or "_"


def with_tokens(text: str, width: int = 0, height: int = 0) -> str:
    """The host's tokens in a prefix replaced, as its ``get_save_image_path`` does."""
    if not isinstance(text, str) or "%" not in text:
        return text
    now = time.localtime()
    values = {"width": width, "height": height, "year": now.tm_year, "month": f"{now.tm_mon:02}",
              "day": f"{now.tm_mday:02}", "hour": f"{now.tm_hour:02}", "minute": f"{now.tm_min:02}",
              "second": f"{now.tm_sec:02}"}  # fmt: skip
    for token, value in values.items():
        text = text.replace(f"%{token}%", str(value))
    return text


def _is_text(name: str) -> bool:
    """Whether it can be written as UTF-8 and holds no control characters."""
    try:
        return not any(byte < 32 or byte == 127 for byte in name.encode())
    except UnicodeEncodeError:
        return False


def _portable(part: str) -> str:
    """A name that every file system takes; "" where nothing is left of it."""
    part = _FORBIDDEN.sub("_", part).rstrip(". ")
    return f"_{part}" if part.split(".")[0].rstrip().lower() in DEVICES else part
