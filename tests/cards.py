"""Draw the card of a graph for the template browser, from the graph itself: what happens, step by step.

    python tests/cards.py NAME...

One box for each group of ``workflows/api/NAME.json``, named as it is, with the nodes of ours in it; film before and
after. The boxes' words are kept in the file as well, where a test compares them with the graph. This is for graphs of
real models, whose results nobody has at hand when a graph is drawn: the toy graphs' cards are frames that they gave.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from forms import editor_form
from PIL import Image, ImageDraw, ImageFont

WORKFLOWS = Path(__file__).resolve().parents[1] / "workflows"
SIZE = (660, 440)
BACK, BOX, EDGE, TEXT, QUIET, FILM = "#16202a", "#22384d", "#3f789e", "#f2f6fa", "#9fb8cc", "#0b1117"
LOADERS = {"UNETLoader", "CheckpointLoaderSimple"}
#: What says nothing of its own: it stands between others in every graph.
PLAIN = {"SteadyEditLoadFrames", "SteadyEditFitFrames", "SteadyEditPickFrame", "SteadyEditSaveTuned",
         "SteadyEditGroundingModel", "SteadyEditSAMModel"}


def font(size: int) -> ImageFont.ImageFont:
    return ImageFont.load_default(size)


def steps_of(api: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Each group's title without its number, and the titles of the nodes in it that do what the graph is about."""
    groups: dict[str, list[str]] = {}
    for node in api.values():
        meta, kind = node["_meta"], node["class_type"]
        titles = groups.setdefault(re.sub(r"^\d+ · ", "", meta.get("group", "Graph")), [])
        if kind in LOADERS or kind.startswith("SteadyEdit") and kind not in PLAIN:
            titles.append(meta["title"])
    return list(groups.items())


def words_of(name: str) -> str:
    """What a graph's card says, as its file keeps it."""
    return json.dumps(steps_of(json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))))


def shortened(draw: ImageDraw.ImageDraw, text: str, letters: ImageFont.ImageFont, width: int) -> str:
    """The text, or as much of it as the width holds."""
    while draw.textlength(text, letters) > width:
        text = text.rstrip("…")[:-1].rstrip(" ,") + "…"
    return text


def film(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], colours: tuple[str, str]) -> None:
    """A strip of three frames with a ball that moves; ``colours``: of the ground and of the ball."""
    left, top, right, bottom = box
    draw.rounded_rectangle(box, 6, fill=FILM, outline=EDGE)
    width = (right - left - 16) // 3
    for i in range(3):
        x = left + 5 + i * (width + 3)
        draw.rectangle((x, top + 12, x + width, bottom - 12), fill=colours[0])
        middle, radius = top + (bottom - top) // 2, (bottom - top) // 7
        ball = x + width * (i + 1) // 4
        draw.ellipse((ball - radius, middle - radius, ball + radius, middle + radius), fill=colours[1])
    for x in range(left + 6, right - 6, 12):
        for y in (top + 3, bottom - 8):
            draw.rectangle((x, y, x + 6, y + 4), fill=QUIET)


def card(name: str) -> Image.Image:
    """The card of a graph, 660x440."""
    api = json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))
    steps = steps_of(api)
    picture = Image.new("RGB", SIZE, BACK)
    draw = ImageDraw.Draw(picture)
    strip, left, right = 130, 176, SIZE[0] - 14
    film(draw, (16, 30, 16 + strip, 104), ("#5f7d6a", "#4fb06a"))
    draw.text((16 + strip / 2, 112), "your video", TEXT, font(20), "ma")
    film(draw, (16, SIZE[1] - 126, 16 + strip, SIZE[1] - 52), ("#5f7d6a", "#b25fd0"))
    draw.text((16 + strip / 2, SIZE[1] - 44), "edited video", TEXT, font(20), "ma")
    pitch = (SIZE[1] - 24) / len(steps)
    for i, (title, nodes) in enumerate(steps):
        top, bottom = 12 + i * pitch, 12 + (i + 1) * pitch - 14
        draw.rounded_rectangle((left, top, right, bottom), 8, fill=BOX, outline=EDGE, width=2)
        middle, size = (top + bottom) / 2, 24 if len(steps) < 7 else 20 if len(steps) > 7 else 19
        while draw.textlength(title, font(size)) > right - left - 28:
            size -= 1
        # Names of nodes stand below the title, or where there are many steps beside it.
        under = bool(nodes) and len(steps) < 8
        draw.text((left + 14, middle - (13 if len(steps) < 7 else 10) * under), title, TEXT, font(size), "lm")
        if under:
            small = font(17 if len(steps) < 7 else 14)
            said = shortened(draw, " · ".join(nodes), small, right - left - 28)
            draw.text((left + 14, middle + (15 if len(steps) < 7 else 12)), said, QUIET, small, "lm")
        else:
            room = right - left - 52 - draw.textlength(title, font(size))
            while nodes and draw.textlength(" · ".join(nodes), font(15)) > room:
                nodes = nodes[:-1]
            draw.text((right - 14, middle), " · ".join(nodes), QUIET, font(15), "rm")
        if i + 1 < len(steps):
            x = (left + right) / 2
            draw.polygon([(x - 9, bottom + 3), (x + 9, bottom + 3), (x, bottom + 12)], fill=QUIET)
    for y, tip, tail in ((67, left - 4, 16 + strip + 4), (SIZE[1] - 89, 16 + strip + 4, left - 4)):
        draw.line((tail, y, tip, y), QUIET, 3)
        back = -8 if tip > tail else 8
        draw.polygon([(tip, y), (tip + back, y - 6), (tip + back, y + 6)], fill=QUIET)
    return picture


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME", help="a graph of workflows/api/, without .json")
    for name in parser.parse_args().names:
        path = editor_form(name).with_suffix(".jpg")
        card(name).save(path, quality=80, comment=words_of(name))
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
