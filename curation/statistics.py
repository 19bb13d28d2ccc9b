"""A set in numbers, as DAPE's Table 5 and Figure 4."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from .schema import CLASSES, COMPLEXITIES, EDITS, HARDEST, Row, kept


def table(rows: Sequence[Row], size: int) -> str:
    """Markdown: the set under Table 5's headings, shares of classes and complexities as in Figure 4, edits."""
    chosen = kept(rows)
    lengths = sorted({int(row["frames"]) for row in chosen if row["frames"]})
    prompts = [sum(bool(row[f"{edit}_prompt"]) for edit in EDITS) for row in chosen]
    classes = [str(len({row[kind] for row in chosen if row[kind]})) for kind in CLASSES]
    cells = [str(len(chosen)), "/".join(map(str, lengths)) or "-", f"{size}x{size}",
             f"{sum(prompts) / len(prompts):.3g}" if prompts else "-",
             f"{sum(bool(row['caption']) for row in chosen)} of {len(chosen)}", *classes]  # fmt: skip
    lines = ["| videos | frames | resolution | prompts a video | captions | subject classes | background classes | "
             "event classes |", "|" + "---|" * len(cells), f"| {' | '.join(cells)} |", "",
             f"{len(rows)} videos were looked at, {len(chosen)} kept.", ""]  # fmt: skip
    for kind, names in CLASSES.items():
        lines.append(f"- {kind}: " + _shares([row[kind] for row in chosen], names))
        levels = {str(level): word for level, word in enumerate(COMPLEXITIES, 1)}
        named = [levels.get(row[f"{kind}_complexity"], "") for row in chosen]
        lines.append(f"- {kind}, complexity: {_shares(named, COMPLEXITIES)}")
    for edit in EDITS:
        wanted = [f"L{row[f'{edit}_difficulty']}" if row[f"{edit}_difficulty"] else "" for row in chosen
                  if row[f"{edit}_prompt"]]  # fmt: skip
        lines.append(f"- edits of {edit}: {len(wanted)}; " + _shares(wanted, [f"L{n}" for n in range(1, HARDEST + 1)]))
    return "\n".join(lines) + "\n"


def _shares(values: Sequence[str], names: Sequence[str]) -> str:
    counts = Counter(value for value in values if value)
    total = sum(counts.values())
    if not total:
        return "not said yet"
    shares = ", ".join(f"{name} {100 * counts[name] / total:.0f} %" for name in names if counts[name])
    return shares + (f" (of {total} of {len(values)})" if total < len(values) else "")
