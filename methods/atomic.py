"""Writing a file as a whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside the target, then move into place: readers never see half a file.

    Raises:
        OSError: one sentence with the reason (a full disk, no permission); no partial file
            stays behind and an earlier file under this name is untouched.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"{path.name}: could not be saved in {path.parent} ({reason})") from error
    finally:
        temporary.unlink(missing_ok=True)
