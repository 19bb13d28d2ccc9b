"""What is shared says nothing of whose machine it was."""

from __future__ import annotations

import getpass
import os
import re
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

#: Absolute paths of Unix and of Windows, and network shares.
PATHS = re.compile(r"(?:[A-Za-z]:[\\/]|\\\\|(?<![\w:/.])~?/)(?:[^\s\\/:*?\"'<>|]+[\\/])*[^\s\\/:*?\"'<>|,;]*")
ADDRESSES = re.compile(r"[\w.+-]+@[\w-]+\.[\w.]+")
#: Shorter names are words that mean something else as well.
SHORTEST = 4


class Cleaner:
    """Takes out paths, names of the user and of the machine, addresses, and whatever else is named.

    Args:
        named: texts that must not appear, such as a file's name.
    """

    def __init__(self, named: Iterable[str | Path] = ()):
        own = {str(one) for one in named} | {str(Path.home()), *_names()}
        self.own = sorted((text for text in own if len(text) >= SHORTEST), key=len, reverse=True)

    def text(self, text: str) -> str:
        for one in self.own:
            text = re.sub(rf"(?<!\w){re.escape(one)}(?!\w)", "(left out)", text, flags=re.IGNORECASE)
        return ADDRESSES.sub("(left out)", PATHS.sub("(path)", text))

    def value(self, value: Any) -> Any:
        """The same of every text in lists and mappings, keys included."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(str(key)): self.value(part) for key, part in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(part) for part in value]
        return value


def _names() -> set[str]:
    """Of the user and the machine."""
    names = {socket.gethostname(), os.environ.get("COMPUTERNAME", "")}
    try:
        names.add(getpass.getuser())
    except (KeyError, OSError, ImportError):
        pass
    return names
