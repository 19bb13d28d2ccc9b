"""docs/papers.md: what it says is here is here, under the names that it gives, and every section has a row."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from steadyedit.benchmarks.dape.methods import BASES
from steadyedit.benchmarks.dape.methods import METHODS as DAPE
from steadyedit.benchmarks.ei2.methods import METHODS as EI2
from steadyedit.benchmarks.lora_edit.methods import METHODS as LORA_EDIT
from steadyedit.benchmarks.via.methods import INSTRUCT
from steadyedit.standalone import cli
from test_house_packaging import API_FORMS, node_ids

PAGE = (Path(__file__).parents[1] / "docs" / "papers.md").read_text(encoding="utf-8")
CODE = re.findall(r"`([^`]+)`", PAGE)
ROWS = {"ei2": EI2, "dape": DAPE, "via": INSTRUCT.methods, "lora_edit": LORA_EDIT}
BENCHMARKS = {path.parent.name for path in (Path(__file__).parents[1] / "benchmarks").glob("*/run.py")}
#: The sections of each paper that have content of their own.
SECTIONS = {
    "EI²": "1 2 3 4.1 4.2 4.3 4.4 5 5.1 5.2 6", "DAPE": "1 2 3.1 3.2 4 5.1 5.2 5.3 6 A.1 A.2",
    "VIA": "1 2 3 4.1 4.2 5 5.1 5.2 5.3 5.4 6 7 A B", "LoRA-Edit": "1 2 3.1 3.2 3.3.1 3.3.2 4.1 4.2 4.3 4.4 4.5 5",
}  # fmt: skip


def table(paper):
    """Cells of a paper's rows."""
    part = re.search(rf"^## {paper}\n(.*?)(?=^## )", PAGE, re.MULTILINE | re.DOTALL)[1]
    lines = [line for line in part.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]


def test_every_code_word_is_a_name_of_something():
    known = re.compile(r"SteadyEdit\w+|bench \w+(: [\w-]+)?|python -m steadyedit .*|--[\w-]+( [\w-]+)?|statistics\.md")
    assert [word for word in CODE if not known.fullmatch(word) and word not in API_FORMS] == []


def test_nodes():
    named = {word for word in CODE if word.startswith("SteadyEdit")}
    assert len(named) > 20 and named <= set(node_ids())


def test_benchmarks_have_the_rows():
    named = [re.fullmatch(r"bench (\w+)(?:: ([\w-]+))?", word) for word in CODE if word.startswith("bench ")]
    assert len(named) > 30
    for match in named:
        assert match[1] in ROWS and (match[2] is None or match[2] in ROWS[match[1]]), match[0]


#: Rivals and bases that were not run with their published settings, by the slugs of their rows.
RIVALS = r"tune-a-video|video-p2p|vid2vid-zero|tokenflow|anyv2v|simda|rave|lora|adapter|mona|partial-1|bitfit"


def test_a_rival_without_its_published_settings_is_said_to_be_inspired():
    """In the page's row, and in the section of RESULTS whose table has it."""
    cells = [line for line in PAGE.splitlines() if re.search(rf"`bench \w+: ({RIVALS})", line)]
    assert len(cells) > 6 and [line for line in cells if "nspired by" not in line] == []
    results = (Path(__file__).parents[1] / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    sections = [part for part in re.split(r"^#+ ", results, flags=re.MULTILINE)
                if re.search(rf"^\| ({RIVALS})[\w-]* \|", part, re.MULTILINE)]  # fmt: skip
    assert len(sections) > 5
    assert [part.splitlines()[0] for part in sections if "nspired by" not in part] == []


def test_commands_are_understood(capsys):
    commands = [word for word in CODE if word.startswith("python -m steadyedit ")]
    assert len({command.split()[3] for command in commands}) >= 4
    for command in commands:
        options = cli.parser().parse_args(shlex.split(command)[3:])
        if options.command == "bench":
            assert options.name in BENCHMARKS and set((options.bases or "per-frame").split(",")) <= set(BASES)
        if options.command == "run":
            assert options.graph in API_FORMS


def test_loose_options_belong_to_commands_that_are_named():
    commands = cli.parser()._subparsers._group_actions[0].choices
    asked = "".join(commands[name].format_help() for name in ("curate", "study"))
    for word in CODE:
        if word.startswith("--"):
            option, _, value = word.partition(" ")
            assert option in asked and value in asked, word


@pytest.mark.parametrize("paper", SECTIONS)
def test_every_section_has_a_row_and_every_row_says_something(paper):
    rows = table(paper)
    assert all(len(cells) == 4 and cells[1] and (cells[2] or cells[3]) for cells in rows), rows
    numbers = (re.sub(r"(Table|Figures?|step) [\d to]+", "", cells[0]) for cells in rows)
    covered = {part for cell in numbers for part in re.findall(r"\b(?:[AB](?:\.\d)?|\d(?:\.\d)*)\b", cell)}
    assert set(SECTIONS[paper].split()) <= covered
