"""What is known of a clip, by the classes of DAPE's appendix A.1, and the table that a person corrects."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from ..files.writing import write_bytes

CLASSES = {
    "subject": ("people", "animal", "vehicle", "artifact", "food", "environment"),
    "background": ("indoor", "urban", "natural", "blur or blank"),
    "event": ("sports", "daily", "performance", "documentary", "cooking"),
}
COMPLEXITIES = ("simple", "moderate", "complex")
#: Levels L1 to L5 of the paper's Figure 9.
HARDEST = 5
#: Four aspects, and two of them at once.
ASPECTS = ("subject", "background", "event", "style")
COMBINATION = "combination"
EDITS = (*ASPECTS, COMBINATION)

FACTS = ("name", "source", "file", "frames", "fps", "motion", "cuts", "keep", "reason")
LABELS = ("caption", *(column for kind in CLASSES for column in (kind, f"{kind}_complexity")))
PROMPTS = (*(column for edit in EDITS for column in (f"{edit}_prompt", f"{edit}_difficulty")), "combination_of")
#: Columns of the manifest; columns of a person's own stay behind them.
COLUMNS = (*FACTS, *LABELS, *PROMPTS, "notes")
YES, NO = "yes", "no"

Row = dict[str, str]


def allowed(column: str) -> tuple[str, ...]:
    """What a cell of a column may hold beside nothing; nothing for columns that take any words."""
    if column in CLASSES:
        return CLASSES[column]
    if column.endswith("_complexity"):
        return tuple(str(level) for level in range(1, len(COMPLEXITIES) + 1))
    if column.endswith("_difficulty"):
        return tuple(str(level) for level in range(1, HARDEST + 1))
    return (YES, NO) if column == "keep" else ()


def read_manifest(path: Path) -> list[Row]:
    """Rows of a manifest, or none where it is not there yet.

    Raises:
        ValueError: no table of this kind, a name twice, or a cell that its column does not take; it names the row.
    """
    if not path.exists():
        return []
    table = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig")))
    if not table.fieldnames or not {"name", "source"} <= set(table.fieldnames):
        raise ValueError(f"{path}: is no manifest; expected CSV with the columns {', '.join(COLUMNS[:4])} and so on.")
    rows: list[Row] = []
    for number, cells in enumerate(table, 2):
        if None in cells or None in cells.values():
            raise ValueError(f"{path}: line {number} has another number of cells than the first line.")
        row = dict.fromkeys(COLUMNS, "") | {column: value.strip() for column, value in cells.items()}
        for column in COLUMNS:
            if row[column] and allowed(column) and row[column] not in allowed(column):
                raise ValueError(f"{path}: row '{row['name']}': {column} is '{row[column]}'; expected "
                                 f"{', '.join(allowed(column))}, or nothing.")  # fmt: skip
        rows.append(row)
    names = [row["name"] for row in rows]
    if double := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{path}: more than one row is called '{min(double)}'; give each a name of its own.")
    return rows


def write_manifest(path: Path, rows: Iterable[Row]) -> None:
    """Write the table, whole or not at all."""
    rows = list(rows)
    columns = list(dict.fromkeys([*COLUMNS, *(column for row in rows for column in row)]))
    table = io.StringIO()
    writer = csv.DictWriter(table, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, table.getvalue().encode())


def kept(rows: Iterable[Row]) -> list[Row]:
    """Rows of clips that belong to the set."""
    return [row for row in rows if row["keep"] == YES]
