"""``steadyedit study A/ B/``: one folder that a browser opens, with videos whose names tell nothing, and its key."""

from __future__ import annotations

import csv
import io
import json
import random
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..files.writing import write_bytes
from .clips import Video, by_clip, collect, pairs_of, unequal, write_blind
from .questions import TEXT, questions_of

PAGE = Path(__file__).with_name("page")
#: Of the methods: which of two a person sees at the left is chosen for every person anew.
SOURCE = -1


@dataclass(frozen=True)
class Settings:
    """What a study is made of.

    Args:
        folders: videos of one method each.
        output: the study's folder, which must not be there or be empty.
        key: file that says which video is whose; None: beside ``output``.
        names: of the methods; none: the folders' names.
        source: folder of the unedited clips, shown above the pair.
        texts: CSV with the columns name and text, or JSON ``{name: text}``.
        questions: ``NAME=WORDS``; none: the papers'.
        title: of the page.
        against_first: compare the first method with the others only.
        shorten: cut videos of unequal length instead of leaving them out.
        tie: whether people may call a pair even.
        show: pairs that one person sees; 0 for all.
    """

    folders: Sequence[Path]
    output: Path
    key: Path | None = None
    names: Sequence[str] = ()
    source: Path | None = None
    texts: Path | None = None
    questions: Sequence[str] = ()
    title: str = "Which video is better?"
    against_first: bool = False
    shorten: bool = False
    tie: bool = True
    show: int = 0


@dataclass(frozen=True)
class Made:
    """Where a study and its key lie, how many pairs it has, and what was left out or changed."""

    page: Path
    key: Path
    pairs: int
    problems: list[str]


def make(settings: Settings, report: Callable[[str], None] = lambda line: None) -> Made:
    """Write a study; the folder is there as a whole or not at all.

    Args:
        report: called with a line on every clip that is done.

    Raises:
        ValueError: what is given makes no study; one sentence.
        OSError: a file cannot be written.
    """
    names, key_path = _checked(settings)
    problems: list[str] = []
    questions, texts = questions_of(settings.questions), read_texts(settings.texts)
    if TEXT in questions and not texts:
        if settings.questions:
            raise ValueError(f"--question {TEXT}: it needs the texts; give them by --texts FILE.")
        problems.append(f"the question '{questions.pop(TEXT)}' is left out, since there are no texts; give them by "
                        "--texts FILE.")  # fmt: skip
    clips = collect(settings.folders, names, problems.append)
    sources = by_clip(settings.source) if settings.source else {}
    settings.output.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".study-", dir=settings.output.parent))
    try:
        writer = _Writer(folder / "videos", names, settings.shorten, problems)
        pairs: list[dict] = []
        for number, (clip, videos) in enumerate(clips.items(), 1):
            asked = [name for name in questions if name != TEXT or clip in texts]
            if len(asked) < len(questions):
                problems.append(f"{clip}: has no text, so that the question '{questions[TEXT]}' is left out there.")
            shown = writer.write(clip, videos, sources.get(clip)) if asked else {}
            if settings.source and clip not in sources:
                problems.append(f"{clip}: {settings.source} has no video of this name, so that no source is shown.")
            for one, other in pairs_of([video for video in videos if video.method in shown], settings.against_first):
                if writer.compare(one, other, shown):
                    pairs.append({"clip": clip, "text": texts.get(clip, ""), "source": shown.get(SOURCE),
                                  "videos": [shown[one.method], shown[other.method]], "questions": asked})
            report(f"{number} of {len(clips)}: {clip}")
        if not pairs:
            raise ValueError("study: no pair of videos is left to compare. " + " ".join(problems))
        _write(settings, folder, key_path, names, questions, pairs, writer.owners)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Made(settings.output / "index.html", key_path, len(pairs), problems)


class _Writer:
    """Writes the videos of a clip under names that tell nothing, and remembers whose they are."""

    def __init__(self, folder: Path, names: Sequence[str], shorten: bool, problems: list[str]):
        folder.mkdir()
        self.folder, self.names, self.shorten, self.problems = folder, names, shorten, problems
        self.owners: dict[str, dict] = {}
        self.digests: dict[str, str] = {}

    def write(self, clip: str, videos: Sequence[Video], source: Path | None) -> dict[int, str]:
        """File names by method, the source's too."""
        if len(sizes := {video.info.shown for video in videos}) > 1:
            listed = " and ".join(f"{width}x{height}" for width, height in sorted(sizes))
            self.problems.append(f"{clip}: the methods' pictures are {listed}; the page shows them at one size.")
        longest = max(video.seconds for video in videos)
        if self.shorten and (lengths := unequal(videos, self.names)):
            self.problems.append(f"{clip}: {lengths}: cut to the shortest.")
            longest = min(video.seconds for video in videos)
        shown: dict[int, str] = {}
        everything = [(video.method, video.path) for video in videos] + ([(SOURCE, source)] if source else [])
        # Names and the order of writing tell nothing of the folder that a video comes from.
        for method, path in random.SystemRandom().sample(everything, len(everything)):
            name = f"{secrets.token_hex(8)}.mp4"
            try:
                self.digests[name] = write_blind(path, self.folder / name, longest)
            except ValueError as error:
                self.problems.append(f"{path.parent.name}: {error} It is left out.")
                continue
            shown[method] = name
            self.owners[name] = {"method": "source" if method == SOURCE else self.names[method], "clip": clip}
        return shown

    def compare(self, one: Video, other: Video, shown: dict[int, str]) -> bool:
        """Whether a pair can be shown; what keeps it away is told."""
        both = " and ".join(self.names[video.method] for video in (one, other))
        if not self.shorten and (lengths := unequal([one, other], self.names)):
            self.problems.append(f"{one.clip}: {lengths}: the pair is left out, for its length would tell them apart; "
                                 "--shorten cuts all to the shortest.")  # fmt: skip
            return False
        if self.digests[shown[one.method]] == self.digests[shown[other.method]]:
            self.problems.append(f"{one.clip}: {both} have the same pictures; the pair is left out.")
            return False
        return True


def _checked(settings: Settings) -> tuple[list[str], Path]:
    """Names of the methods and the key's path, where all of it makes sense."""
    folders, output = settings.folders, settings.output
    if len(folders) < 2:
        raise ValueError("study: give the folders of two methods or more.")
    names = list(settings.names) or [folder.resolve().name for folder in folders]
    if len(names) != len(folders) or len(set(names)) != len(names) or not all(names):
        raise ValueError(f"--names: {len(folders)} different names are needed, a folder each, not {', '.join(names)}.")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"--output {output}: is there already and not empty; name a new folder.")
    key = settings.key or output.resolve().with_name(f"{output.resolve().name}_key.json")
    if key.resolve().is_relative_to(output.resolve()):
        raise ValueError(f"--key {key}: lies in the study's folder, which people see; put it elsewhere.")
    if key.exists():
        raise ValueError(f"--key {key}: is there already, and answers need it; name another file.")
    if settings.show < 0:
        raise ValueError(f"--show {settings.show}: 0 or more pairs are expected.")
    return names, key


def read_texts(path: Path | None) -> dict[str, str]:
    """Texts by a clip's name, from CSV with the columns name and text, or a JSON object.

    Raises:
        ValueError: another format.
    """
    if path is None:
        return {}
    try:
        words = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".json":
            found = dict(json.loads(words))
        else:
            table = csv.DictReader(io.StringIO(words))
            if not {"name", "text"} <= set(table.fieldnames or ()):
                raise KeyError
            found = {row["name"]: row["text"] for row in table}
        if not all(isinstance(text, str | None) for text in found.values()):
            raise TypeError
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"--texts {path}: expected CSV with the columns name and text, or JSON such as "
                         '{"clip": "a blue ball"}.') from error  # fmt: skip
    return {Path(name).stem if Path(name).suffix.lower() == ".mp4" else name: text.strip()
            for name, text in found.items() if text and text.strip()}  # fmt: skip


def _write(settings: Settings, folder: Path, key_path: Path, names: list[str], questions: dict[str, str],
           pairs: list[dict], owners: dict[str, dict]) -> None:  # fmt: skip
    """The page into the folder, the key beside it, and the folder to its place."""
    study = secrets.token_hex(6)
    random.SystemRandom().shuffle(pairs)
    keyed = {f"p{number:03}": pair for number, pair in enumerate(pairs, 1)}
    page = {
        "study": study, "title": settings.title, "tie": settings.tie, "show": settings.show or len(pairs),
        "questions": questions,
        # Without the clip's name, and in an order that tells nothing.
        "pairs": [{"pair": name, **{field: pair[field] for field in ("text", "source", "questions")},
                   "videos": sorted(pair["videos"])} for name, pair in keyed.items()],
    }  # fmt: skip
    used = {name for pair in pairs for name in (*pair["videos"], pair["source"])}
    for name in owners.keys() - used:
        (folder / "videos" / name).unlink()
    key = {
        "study": study, "title": settings.title, "methods": names, "questions": questions,
        "pairs": {name: {"clip": pair["clip"], "videos": pair["videos"]} for name, pair in keyed.items()},
        "videos": {name: owner for name, owner in sorted(owners.items()) if name in used},
    }  # fmt: skip
    (folder / "index.html").write_text(html(page), encoding="utf-8")
    folder.chmod(0o755)
    if settings.output.exists():
        settings.output.rmdir()
    write_bytes(key_path, json.dumps(key, indent=1, ensure_ascii=False).encode())
    folder.rename(settings.output)


def html(page: dict) -> str:
    """The page with its style, its program and its pairs inside."""
    from html import escape

    style, program, body = (_part(name) for name in ("style.css", "study.js", "index.html"))
    # A text with a tag in it must not end the element.
    data = json.dumps(page, ensure_ascii=False).replace("<", "\\u003c")
    parts: Iterable[tuple[str, str]] = (("TITLE", escape(page["title"])), ("STYLE", style), ("PROGRAM", program),
                                        ("DATA", data))  # fmt: skip
    for name, content in parts:
        body = body.replace(f"<!--{name}-->", content, 1)
    return body


def _part(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")


def finished(made: Made) -> str:
    """What is said at the end."""
    count = f"{made.pairs} pair{'s' * (made.pairs != 1)}"
    return (f"{made.page}: {count}. Send or serve its whole folder.\n"
            f"{made.key}: whose video is whose; keep it to yourself.")
