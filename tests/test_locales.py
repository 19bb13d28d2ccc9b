"""Names and tooltips in other languages (``locales/``): every node and input has them, and nothing else has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LANGUAGES = {"zh": ("\u4e00", "\u9fff"), "ja": ("\u3040", "\u30ff")}


@pytest.fixture(scope="module")
def schemas():
    from steadyedit.standalone import host_api

    with host_api.installed():
        from steadyedit.nodes import node_list

        return {node.GET_SCHEMA().node_id: node.GET_SCHEMA() for node in node_list()}


def read(language):
    return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_node_and_input_has_its_words_and_no_other_has(schemas, language):
    """The frontend falls back to English without a word where an entry is missing."""
    there = read(language)
    assert {name: set(entry.get("inputs", {})) for name, entry in there.items()} == {
        name: {one.id for one in schema.inputs} for name, schema in schemas.items()}
    for name, entry in there.items():
        assert entry["display_name"] and set(entry) <= {"display_name", "description", "inputs", "outputs"}, name
        for field, words in entry.get("inputs", {}).items():
            assert set(words) == {"name", "tooltip"} and words["name"], (name, field)
        assert {int(place) for place in entry.get("outputs", {})} <= set(range(len(schemas[name].outputs))), name


@pytest.mark.parametrize("language", LANGUAGES)
def test_tooltips_are_in_the_language_itself(language):
    low, high = LANGUAGES[language]
    for name, entry in read(language).items():
        for field, words in entry.get("inputs", {}).items():
            assert any(low <= letter <= high for letter in words["tooltip"]), (name, field)


@pytest.mark.parametrize("language", LANGUAGES)
def test_equal_tooltips_are_equal_in_every_language(schemas, language):
    """One sentence has one translation, so that a changed one is not forgotten elsewhere."""
    found: dict[str, set[str]] = {}
    for name, entry in read(language).items():
        for one in schemas[name].inputs:
            found.setdefault(one.settings["tooltip"], set()).add(entry["inputs"][one.id]["tooltip"])
    assert {english: other for english, other in found.items() if len(other) > 1} == {}
