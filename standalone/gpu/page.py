"""The page of a run: what each piece found, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def page(report: Mapping[str, Any]) -> str:
    """One table of what is compared, and what did not run."""
    about, pieces = report["meta"], report["pieces"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items() if version)
    lines = [
        "# SteadyEdit on this machine", "",
        "A rehearsal on the CPU: its numbers say nothing of a GPU." if about["tiny"] else f"{about['device']}.", "",
        f"{versions}; commit {about['commit'] or 'unknown'}.", "",
        "| piece | result | seconds |", "|---|---|---|",
    ]  # fmt: skip
    for piece in pieces:
        status = piece["status"] + (f", because {_one_line(piece['because'])}" if piece.get("because") else "")
        seconds = f"{piece['seconds']:.0f}" if "seconds" in piece else ""
        lines.append(f"| {piece['title']} | {status} | {seconds} |")
    for piece in pieces:
        if piece.get("compared"):
            lines += ["", f"## {piece['title']}", "", "| number | measured | predicted | off | goal | reached |",
                      "|---|---|---|---|---|---|"]  # fmt: skip
            lines += [_compared(one) for one in piece["compared"]]
    return "\n".join(lines) + "\n"


def _compared(one: Mapping[str, Any]) -> str:
    measured, predicted, goal, unit = one["measured"], one["predicted"], one["goal"], one["unit"]
    off = f"{measured / predicted - 1:+.0%}" if predicted else ""
    limit = "" if goal is None else f"{'at least' if one['higher'] else 'at most'} {goal:.3g}"
    met = {None: "", True: "yes", False: "no"}[one["met"]]
    expected = f"{predicted:.3g}" if predicted else ""
    return f"| {one['what']} | {measured:.3g} {unit} | {expected} | {off} | {limit} | {met} |"


def _one_line(text: str) -> str:
    return " / ".join(part.strip() for part in text.splitlines() if part.strip()).replace("|", "\\|")[:600]
