"""Let the disk be full at every stage of a streamed edit in the real host, make room, and go on.

    sudo python tests/host/full_disk.py [KIB ...]

Each size is a file system of its own in memory, which only root may mount. What is said must be one sentence, finished
windows must be there afterwards, and the frames must be those of an edit that nothing stopped, before the codec.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import killed_edit

#: The clip has twelve frames of 12 KiB; with its inversion it needs some 200.
SIZES = (4, 12, 24, 40, 64, 96, 128, 160, 192)
ROOM = 20000


@contextmanager
def disk(place: Path, size: int) -> Iterator[None]:
    """A file system of so many KiB."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


class Trial:
    """An edit whose work lies on that disk."""

    def __init__(self, clip: Path, place: Path) -> None:
        import folder_paths
        from steadyedit.streaming import video as streaming
        from steadyedit.streaming.inversion import StreamedInversion
        from toys import text

        folder_paths.folder_names_and_paths["steadyedit"] = ([str(place / "steadyedit")], set())
        self.place, self.digest, self.before = place, "", lambda: None
        self.node, self.inputs = killed_edit.edit_of(clip)
        self.inputs["inversion"] = StreamedInversion(self.inputs["guider"].model_patcher, text(2),
                                                     self.inputs["sigmas"])  # fmt: skip
        written = streaming.written

        def told(folder: Path, store: Any, *rest: Any) -> Any:
            self.digest = hashlib.sha256(b"".join(frame.numpy().tobytes() for frame in store.frames())).hexdigest()
            self.before()
            return written(folder, store, *rest)

        streaming.written = told

    def run(self) -> str:
        """Its words."""
        import torch

        with torch.inference_mode():
            return self.node.execute(**self.inputs).args[1]

    def full(self, expected: str) -> bool:
        """Run into the full disk, and go on in a larger one."""
        try:
            print("    " + self.run())
            return self.digest == expected
        except OSError as error:
            kept = len(list(self.place.glob("steadyedit/cache/streams/*/*.window")))
            said = str(error).replace(str(self.place), "DISK")
        print(f"    {said} ({kept} windows kept)")
        (self.place / "ballast").unlink(missing_ok=True)
        self.before = lambda: None
        subprocess.run(["mount", "-o", f"remount,size={ROOM}k", str(self.place)], check=True)
        info = self.run()
        print("    goes on: " + info)
        return "\n" not in said and self.digest == expected and (not kept or f"{2 * kept} of them found" in info)

    def fill(self) -> None:
        """Leave a block free."""
        there = os.statvfs(self.place)
        (self.place / "ballast").write_bytes(bytes(max(0, there.f_bavail - 1) * there.f_bsize))


def main(*sizes: int) -> int:
    """One disk a size, and one that is full when the video is written."""
    killed_edit.set_up()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as there:
        trial = Trial(killed_edit.prepared(Path(folder), 12), Path(there))
        with disk(trial.place, ROOM):
            trial.run()
        expected, good = trial.digest, True
        for size in sizes or SIZES:
            print(f"{size} KiB", flush=True)
            with disk(trial.place, size):
                good &= trial.full(expected)
        print("full when the video is written", flush=True)
        with disk(trial.place, ROOM):
            trial.before = trial.fill
            good &= trial.full(expected)
    print("frames equal, windows kept" if good else "NOT as it should be")
    return int(not good)


if __name__ == "__main__":
    raise SystemExit(main(*map(int, sys.argv[1:])))
