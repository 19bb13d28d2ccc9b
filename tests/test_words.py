"""Words for artists: every node has some, and each names an input that is there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from steadyedit.standalone import host_api

API_FORMS = Path(__file__).parents[1] / "workflows" / "api"


@pytest.fixture(scope="module")
def words():
    with host_api.installed():
        from steadyedit.nodes import node_list, words
        from steadyedit.nodes.schema import words_of

        nodes = {node.define_schema().node_id: node for node in node_list()}
        schemas = {name: node.define_schema() for name, node in nodes.items()}
        said = {name: words_of(node, name) for name, node in nodes.items()}
        return SimpleNamespace(module=words, schemas=schemas, nodes=nodes, said=said)


def test_every_node_is_found_by_other_words_than_its_name(words):
    assert {name for name, said in words.said.items() if not said.aliases} == set()
    assert set(words.module.BY_NODE) <= set(words.schemas)


def test_a_nodes_words_stand_in_one_place(words):
    own = {name for name, node in words.nodes.items() if hasattr(node, "WORDS")}
    assert "SteadyEditTokenFlow" in own and not own & set(words.module.BY_NODE)
    assert own | set(words.module.BY_NODE) == set(words.nodes)


def test_words_name_inputs_that_are_there(words):
    for name, said in words.said.items():
        inputs = {given.id for given in words.schemas[name].inputs}
        assert {*said.names, *said.advanced} <= inputs, name
        assert len(set(said.aliases)) == len(said.aliases) and all(alias == alias.lower() for alias in said.aliases)
        shown = [said.names.get(id, words.module.BY_INPUT.get(id, id)) for id in inputs]
        assert len(set(shown)) == len(shown), f"{name}: two inputs are called alike"


def test_only_fields_that_the_host_has_are_filled(words):
    from steadyedit.nodes.schema import complete_schema, known
    from steadyedit.nodes.words import Words

    said = Words(("phrase",), {"a": "plain words"}, ("a",), "Video Tools")
    old = SimpleNamespace(inputs=[SimpleNamespace(id="a", display_name=None)])
    assert vars(complete_schema(old, said).inputs[0]) == {"id": "a", "display_name": "plain words"}
    assert len(vars(old)) == 1
    new = SimpleNamespace(inputs=[SimpleNamespace(id="a", display_name="own", advanced=None)], search_aliases=[],
                          essentials_category=None)
    complete_schema(new, said)
    assert vars(new.inputs[0]) == {"id": "a", "display_name": "own", "advanced": True}
    assert new.search_aliases == ["phrase"] and new.essentials_category == "Video Tools"
    assert known(lambda id, tooltip=None: (id, tooltip), "a", tooltip="t", advanced=True) == ("a", "t")
    assert known(lambda id, **rest: rest, "a", advanced=True) == {"advanced": True}


@pytest.mark.parametrize("note", sorted(API_FORMS.glob("*.md")), ids=lambda path: path.stem)
def test_notes_name_settings_as_the_editor_shows_them(words, note):
    """A marked word is no id of a setting that no node of the graph shows under it."""
    graph = json.loads(note.with_suffix(".json").read_text(encoding="utf-8"))
    marked = set(re.findall(r"\*+([^*\n]+)\*+", note.read_text(encoding="utf-8")))
    shown: dict[str, set[str]] = {}
    for name in {node["class_type"] for node in graph.values()} & set(words.schemas):
        for given in words.schemas[name].inputs:
            called = words.said[name].names.get(given.id, words.module.BY_INPUT.get(given.id, given.id))
            shown.setdefault(given.id, set()).add(called)
    assert {word for word in marked & set(shown) if word not in shown[word]} == set()


@pytest.mark.parametrize("sentence, more", [
    ("stop: is 0; use more.", ' (stop is "near enough (error)" in the editor).'), ("steps: is 0; use more.", "."),
    ("learning_rate: is 0; use more.", "."), ("stop of it: is odd; leave it.", "."),
    ("steps: are 0; a lower stop or n_max serves.", ' (n_max is "steps of the edit" in the editor).'),
    ("two\nlines.", "."),
])  # fmt: skip
def test_a_refusal_says_what_the_editor_calls_its_input(sentence, more):
    """Sentences begin with the id, which the widget may not show; a host's schema has what it shows."""
    with host_api.installed():
        from steadyedit.nodes.checked import checked

    class Node:
        @classmethod
        def define_schema(cls):
            names = {"stop": "near enough (error)", "learning_rate": "learning rate", "steps": None,
                     "n_max": "steps of the edit"}
            return SimpleNamespace(outputs=[], inputs=[
                SimpleNamespace(id=id, display_name=name, io_type="INT") for id, name in names.items()])  # fmt: skip

        @classmethod
        def execute(cls, **given):
            raise ValueError(sentence)

    with pytest.raises(ValueError) as caught:
        checked(Node).execute()
    assert str(caught.value) == sentence.removesuffix(".") + more


@pytest.mark.parametrize("frames, sentence", [(4, "chunk: .* 4 frames of 12x8 at once; use a smaller chunk"),
                                              (1, "images: .* frames of 12x8 one by one; use smaller frames")])
def test_memory_that_ran_out_names_an_input_that_the_node_has(words, frames, sentence):
    import torch

    with host_api.installed():
        from steadyedit.nodes.pictures import explain_out_of_memory

        with pytest.raises(MemoryError, match=sentence), explain_out_of_memory("segmenting", frames,
                                                                               torch.zeros(4, 8, 12, 3)):
            raise torch.OutOfMemoryError("CUDA out of memory")


def test_help_pages_name_settings_as_the_editor_shows_them(words):
    pages = Path(__file__).parents[1] / "web" / "docs"
    for name, schema in words.schemas.items():
        page, said = (pages / f"{name}.md").read_text(encoding="utf-8"), words.said[name]
        for given in schema.inputs:
            shown = said.names.get(given.id, words.module.BY_INPUT.get(given.id))
            assert not shown or f"**{given.id}**" not in page or f"*{shown}*" in page, f"{name}: {given.id}"
