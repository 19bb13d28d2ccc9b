"""Finished rows on disk: an interrupted benchmark goes on, and several processes share one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...files.writing import whole
from ...methods.content_hash import content_hash
from ...methods.stored import digest_of, set_aside
from .report import commit, write_json

if TYPE_CHECKING:
    from torch import Tensor


class Journal:
    """One file per method and clip, and beside it the edited frames for the contact sheet.

    A file is written whole or not at all, and no two processes write the same one, so that
    nothing needs a lock.

    Args:
        folder: of the files; made at the first row.
        settings: what the rows depend on, as plain JSON data.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]):
        self.folder = Path(folder)
        self.settings = json.loads(json.dumps(settings))
        self._commit = commit()

    def _path(self, clip: int, method: str) -> Path:
        return self.folder / f"{clip:02d}-{method}.json"

    def find(self, clip: int, method: str) -> dict[str, Any] | None:
        """What ``keep`` was given, beside ``commit`` and ``load``; None where nothing is finished.

        A damaged row is set aside, with a warning, and measured again.

        Raises:
            ValueError: the row was measured with other settings.
        """
        path = self._path(clip, method)
        if not path.is_file():
            return None
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            # Rows from before there were digests have none.
            digest = kept.pop("digest", None)
            if digest is not None and digest != self._digest(kept, path):
                raise ValueError("it or its picture was changed")
            if not {"settings", "row", "load", "commit"} <= kept.keys():
                raise ValueError("it is no row of a benchmark")
        except (ValueError, TypeError, AttributeError, OSError) as error:
            set_aside(path, f"{path}: is damaged ({error}).")
            return None
        if kept["settings"] != self.settings:
            raise ValueError(
                f"json: {path} was measured with other settings; "
                f"delete the folder {self.folder.name} or name another file."
            )
        return kept

    def keep(self, clip: int, method: str, row: dict[str, Any], frames: Tensor) -> None:
        """Save a finished row.

        Args:
            frames: [F, H, W, 3] in 0..1.
        """
        path = self._path(clip, method)
        # The picture first: a row that is there has its picture.
        _write_strip(path.with_suffix(".png"), frames)
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        kept = {"settings": self.settings, "commit": self._commit, "load": load, "row": row}
        write_json(path, {**kept, "digest": self._digest(json.loads(json.dumps(kept)), path)})

    @staticmethod
    def _digest(kept: dict[str, Any], path: Path) -> str:
        """Of a row and its picture."""
        digest = content_hash(json.dumps(kept, sort_keys=True), digest_of(path.with_suffix(".png")))
        assert digest is not None  # texts
        return digest

    def row(self, clip: int, method: str) -> dict[str, Any]:
        """A finished row.

        Raises:
            ValueError: it is missing.
        """
        return self.report([clip], [method])[0][0]

    def frames(self, clip: int, method: str, count: int) -> Tensor:
        """The frames of a finished row, [count, H, W, 3] in 0..1, rounded to 8 bits."""
        import numpy as np
        import torch
        from PIL import Image

        strip = torch.from_numpy(np.array(Image.open(self._path(clip, method).with_suffix(".png"))))
        return torch.stack(strip.chunk(count, dim=1)).float() / 255

    def report(self, clips: Iterable[int], methods: Sequence[str]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """All rows, clip by clip, and what is known of how they were measured.

        Raises:
            ValueError: a row is missing.
        """
        found = {(clip, method): self.find(clip, method) for clip in clips for method in methods}
        missing = [f"{method} on clip {clip}" for (clip, method), kept in found.items() if kept is None]
        if missing:
            raise ValueError(f"json: {missing[0]} was not measured ({len(missing)} rows are missing); run it again.")
        finished = [kept for kept in found.values() if kept is not None]
        loads = [kept["load"] for kept in finished if kept["load"] is not None]
        commits = sorted({kept["commit"] or "unknown" for kept in finished})
        how = {
            "commit": ", ".join(commits),
            "mean_load": round(sum(loads) / len(loads), 1) if loads else None,
            "cores": os.cpu_count(),
        }
        return [kept["row"] for kept in finished], how


def _write_strip(path: Path, frames: Tensor) -> None:
    """A PNG with the frames side by side."""
    from PIL import Image

    strip = (frames.clamp(0, 1) * 255).round().byte().cpu().transpose(0, 1).flatten(1, 2)
    with whole(path) as temporary:
        Image.fromarray(strip.numpy()).save(temporary, "PNG")
