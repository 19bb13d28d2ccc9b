"""The folder to share: numbers as JSON, one page, and a contact sheet."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...files.writing import write_bytes

SHEET, NUMBERS, PAGE = "sheet.png", "verify.json", "verify.md"


def write_folder(folder: Path, report: Mapping[str, Any], frames: Mapping[str, Any] | None) -> list[Path]:
    """Write what is shared.

    Args:
        report: see ``run.verify``; already without anything personal.
        frames: before and after [F, H, W, 3] in 0..1; None where the graph did not come so far.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / NUMBERS, folder / PAGE]
    write_bytes(written[0], json.dumps(report, indent=1).encode())
    write_bytes(written[1], page(report).encode())
    (folder / SHEET).unlink(missing_ok=True)
    if frames is not None:
        from ...video.sheet import contact_sheet

        words = "\n".join(f"{name}: {value:.4g}" for name, value in report["metrics"].items()
                          if isinstance(value, (int, float)))  # fmt: skip
        contact_sheet(folder / SHEET, f"verify {report['graph']}", [("before", "", frames["before"]),
                                                                    ("after", words, frames["after"])])  # fmt: skip
        written.append(folder / SHEET)
    return written


def page(report: Mapping[str, Any]) -> str:
    """The report in Markdown."""
    about, size = report["host"], report["size"]
    ran = "ran whole" if report["because"] is None else f"stopped: {report['because']}"
    lines = [
        f"# `{report['graph']}` on {about['device']}", "",
        f"It {ran}", "",
        f"- SteadyEdit {report['pack']['version']}, commit {report['pack']['commit'] or 'unknown'}",
        f"- ComfyUI {about['comfyui']}, Python {about['python']}, PyTorch {about['pytorch']}, {about['system']}",
        f"- {about['device']}, {about['device_gib']:.1f} GiB; main memory {about['memory_gib']:.0f} GiB",
        f"- clip: {'our own' if report['own_clip'] else 'of the user'}"
        + (f", {size[0]} frames of {size[2]}x{size[1]}" if size else ""),
        f"- model files: {', '.join(f'{name} ({gb:.2f} GB)' for name, gb in report['models'].items()) or 'none'}",
        f"- changed values: {', '.join(f'{name} = {value}' for name, value in report['changed'].items()) or 'none'}",
        "", "## By node", "",
        "Predicted: a fake run of the paper's size, at 45 % of this device's rate in plain products; only where the "
        "size is the same. Memory on the device is PyTorch's own; what the host holds beside it counts as *in use*.",
        "",
        "| node | seconds | predicted | GiB on the device | predicted | in use after | GiB of the process |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    lines += [_row(node) for node in report["nodes"]]
    lines += ["", "## Metrics", ""]
    lines += [f"- {name}: {value if isinstance(value, str) else f'{value:.5g}'}"
              for name, value in report["metrics"].items() if value is not None] or ["None were measured."]  # fmt: skip
    return "\n".join(lines) + "\n"


def _row(node: Mapping[str, Any]) -> str:
    def number(value: float | None, places: int = 2) -> str:
        return "" if value is None else f"{value:.{places}f}"

    cells: Sequence[str] = (
        f"{node['title']} ({node['class']})".replace("|", "/"), number(node["seconds"], 1),
        number(node["predicted_seconds"], 1), number(node["device_gib"]), number(node["predicted_gib"]),
        number(node["device_in_use_gib"]), number(node["process_gib"]),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"
