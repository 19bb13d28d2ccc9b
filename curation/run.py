"""``steadyedit curate``: clips are brought to one form, filtered, described and given edits, a row of a table each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..files.writing import write_bytes
from .filters import cuts, motion, verdict
from .schema import LABELS, NO, PROMPTS, YES, Row, kept, read_manifest, write_manifest
from .sets import Found, find
from .standard import spread, standardise
from .statistics import table

if TYPE_CHECKING:
    from ..vision.captions import Captioner
    from .annotate import Annotator

MANIFEST, STATISTICS, CLIPS = "manifest.csv", "statistics.md", "clips"


@dataclass(frozen=True)
class Settings:
    """How clips are chosen and described.

    Args:
        places: video files, folders of them, or a public set's folder.
        output: where the manifest, the statistics and the clips go; what is there is gone on with.
        kind: name of a public set; None for plain videos.
        model: folder of a vision-language model in transformers' format; None: a person describes the clips.
        size: side of the clips. lengths: numbers of frames that a clip may have.
        least, most: motion in percent of the picture's side a frame. The paper states no bounds; these are ours.
        find_cuts: leave out clips with a scene cut.
    """

    places: Sequence[Path]
    output: Path
    kind: str | None = None
    model: Path | None = None
    size: int = 512
    lengths: Sequence[int] = (32, 64, 128)
    least: float = 0.1
    most: float = 5.0
    find_cuts: bool = True


def curate(settings: Settings, report: Callable[[str], None] = lambda line: None,
           annotator: Callable[[], Annotator] | None = None) -> list[Row]:
    """Fill the manifest, row by row; cells that are filled are never changed.

    A row's clip is made, its motion measured and its *keep* decided where these cells are empty; a bad video gets
    *keep* no and the reason. Descriptions and edits are asked of the model where cells of a kept clip are empty. The
    manifest is written after every row, so that an interrupted run goes on.

    Args:
        report: called with a line on every row.
        annotator: makes what is asked in the place of ``settings.model``; called before the first question.

    Raises:
        ValueError: no videos, settings or a manifest that make no sense, no PySceneDetect.
    """
    check(settings)
    found = find(settings.places, settings.kind)
    rows = {row["name"]: row for row in read_manifest(settings.output / MANIFEST)}
    for clip in found:
        rows.setdefault(clip.name, empty(clip))
    if annotator is None and settings.model is not None:
        annotator = partial(load, settings.model)
    captioner = None
    for number, row in enumerate(rows.values(), 1):
        notes = list(choose(row, settings))
        try:
            if annotator is not None and row["keep"] == YES and unsaid(row):
                captioner = captioner or annotator()
                notes += describe(row, settings, captioner)
        finally:
            # The clip is made and measured, however its description ends.
            write_manifest(settings.output / MANIFEST, rows.values())
        report(f"{number} of {len(rows)}: {row['name']}: {'; '.join(notes) or 'kept'}")
    write_bytes(settings.output / STATISTICS, table(list(rows.values()), settings.size).encode())
    return list(rows.values())


def check(settings: Settings) -> None:
    """Raises ValueError, naming the setting."""
    if settings.size < 16 or settings.size % 2:
        raise ValueError(f"--size {settings.size}: an even number of pixels from 16 on is expected.")
    if not settings.lengths or min(settings.lengths) < 2:
        raise ValueError("--frames: numbers of frames from 2 on are expected, such as 32,64,128.")
    if not 0 <= settings.least < settings.most:
        raise ValueError(f"--least-motion {settings.least:g} must be below --most-motion {settings.most:g}.")
    if settings.find_cuts:
        from importlib.util import find_spec

        if find_spec("scenedetect") is None:
            cuts(Path())  # says how to get it, before hours of work
    if settings.model and not settings.model.is_dir():
        raise ValueError(f"--model {settings.model}: there is no such folder.")


def empty(clip: Found) -> Row:
    """A new clip's row: its name, where it lies, and what its set says of it."""
    from .schema import COLUMNS

    return dict.fromkeys(COLUMNS, "") | {"name": clip.name, "source": str(clip.source)} | clip.cells


def choose(row: Row, settings: Settings) -> list[str]:
    """Make a row's clip and decide whether it stays; returns what was decided against it."""
    target = settings.output / CLIPS / f"{row['name']}.mp4"
    if row["keep"] == NO or (row["keep"] == YES and target.exists()):
        return [row["reason"] or "left out"] if row["keep"] == NO else []
    source = Path(row["source"])
    try:
        if not source.exists():
            raise ValueError(f"{source.name}: is not there.")
        made = standardise(source, target, settings.size, settings.lengths)
    except (ValueError, OSError) as error:
        row["keep"], row["reason"] = NO, str(error)
        return [row["reason"]]
    row |= {"file": f"{CLIPS}/{target.name}", "frames": str(made.frames), "fps": f"{float(made.fps):g}"}
    moved, scene_cuts = motion(made.pictures), cuts(target) if settings.find_cuts else None
    row |= {"motion": f"{moved:.2f}", "cuts": "" if scene_cuts is None else str(scene_cuts)}
    if not row["keep"]:
        row["reason"] = verdict(moved, scene_cuts, settings.least, settings.most)
        row["keep"] = NO if row["reason"] else YES
        if row["keep"] == NO:
            target.unlink()
            row["file"] = ""
            return [row["reason"]]
    return []


def unsaid(row: Row) -> bool:
    """Whether a model has something to fill in."""
    return any(not row[column] for column in (*LABELS, *PROMPTS) if column != "combination_of")


def load(folder: Path) -> Captioner:
    """The model, on the graphics card in half precision where there is one."""
    import torch

    from ..vision.captions import load_captioner

    if not torch.cuda.is_available():
        return load_captioner(folder)
    captioner = load_captioner(folder, torch.bfloat16)
    captioner.module.to("cuda", torch.bfloat16)
    return captioner


def describe(row: Row, settings: Settings, captioner: Annotator) -> list[str]:
    """Ask the model; what it left open stands in the row's notes."""
    from .annotate import annotate

    left = annotate(row, spread(settings.output / CLIPS / f"{row['name']}.mp4"), captioner)
    if left:
        row["notes"] = row["notes"] or f"to be seen to: {'; '.join(left)}"
    return left


def finished(rows: Sequence[Row], output: Path) -> str:
    """What is said at the end."""
    open_rows = sum(unsaid(row) for row in kept(rows))
    summary = f"{output / MANIFEST}: {len(kept(rows))} of {len(rows)} clips are kept"
    summary += f", {open_rows} of them with empty cells to fill in" if open_rows else ""
    return f"{summary}. Correct any row, and run the same command again.\n{output / STATISTICS}"
