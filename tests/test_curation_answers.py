"""A vision-language model's answers against the schema: well formed, chatty, cut off, half empty, wrong."""

from __future__ import annotations

import pytest
from steadyedit.curation.annotate import annotate, labels_question, pair_of, prompts_question
from steadyedit.curation.answers import class_of, found_in, labels_of, level_of, prompts_of
from steadyedit.curation.schema import CLASSES, COLUMNS, EDITS

WANTED = {"caption": "A goat sits on a rock, licking its paw.", "subject": "animal", "subject_complexity": "1",
          "background": "natural", "background_complexity": "2", "event": "documentary",
          "event_complexity": "1"}  # fmt: skip
PLAIN = """{"caption": "A goat sits on a rock, licking its paw.", "subject": "animal", "subject_complexity": 1,
 "background": "natural", "background_complexity": 2, "event": "documentary", "event_complexity": 1}"""
#: Written by hand after the ways in which models of this kind answer, no recordings of one; all of them say WANTED.
WRITTEN = {
    "plain": PLAIN,
    "fenced": f"```json\n{PLAIN}\n```",
    "chatty": f"Sure! Here is what the video shows {{as JSON}}:\n\n```json\n{PLAIN}\n```\nDo you need more?",
    "single quotes": PLAIN.replace('"', "'"),
    "trailing comma": PLAIN[:-1] + ",\n}",
    "other names": PLAIN.replace('"animal"', '"Animal (goat)"').replace('"natural"', '"outdoor"')
                   .replace(': 2', ': "Moderate"').replace('_complexity": 1', ' Complexity": "1/3"'),
    "lists": PLAIN.replace('"animal"', '["animal"]').replace('"documentary"', '["documentary", "daily"]'),
    "cut off": PLAIN[:-1],
    "lines": "Caption: A goat sits on a rock, licking its paw.\nSubject: animal\nSubject complexity: 1 (simple)\n"
             "Background: natural\nBackground complexity: 2\nEvent: documentary\nEvent complexity: simple",
    "marked lines": "**Caption:** A goat sits on a rock, licking its paw.\n- **Subject**: animal\n"
                    "- **Subject complexity**: 1\n- **Background**: natural\n"
                    "- **Background complexity**: moderate\n- **Event**: documentary\n"
                    "- **Event complexity**: L1",
    "inside another": f'{{"result": {PLAIN}}}',
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_every_way_to_say_it(name):
    assert labels_of(WRITTEN[name]) == (WANTED, {})


@pytest.mark.parametrize(("answer", "cells", "wrong"), [
    ("", {}, {column: f"{column} is missing" for column in WANTED}),
    ("I'm sorry, I cannot see any video.", {}, {column: f"{column} is missing" for column in WANTED}),
    (PLAIN.replace('"animal"', '"robot"'), {k: v for k, v in WANTED.items() if k != "subject"},
     {"subject": "subject is 'robot'"}),
    (PLAIN.replace('"animal"', '"people or animal"'), {k: v for k, v in WANTED.items() if k != "subject"},
     {"subject": "subject is 'people or animal'"}),
    (PLAIN.replace("complexity\": 2", "complexity\": 7"),
     {k: v for k, v in WANTED.items() if k != "background_complexity"},
     {"background_complexity": "background_complexity is '7'"}),
    ('{"caption": "goat", "subject": null}', {}, {"caption": "caption is 'goat'"}
     | {column: f"{column} is missing" for column in WANTED if column != "caption"}),
    (PLAIN[:95], {"caption": WANTED["caption"], "subject": "animal"},
     {column: f"{column} is missing" for column in WANTED if column not in ("caption", "subject")}),
])  # fmt: skip
def test_what_is_wrong_is_left_out_and_told(answer, cells, wrong):
    found, told = labels_of(answer)
    assert found == cells and told == wrong


def test_classes_and_levels():
    said = ("Blurred", "blur or blank", "city street", "", None, 3)
    classes = [class_of(value, CLASSES["background"]) for value in said]
    assert classes == ["blur or blank", "blur or blank", "urban", "", "", ""]
    levels = (1, 2.0, "3", "L2", "2/3", "complex", "level 1", 0, 4, 2.5, "2.5", "12", True, None, "simple to moderate")
    assert [level_of(value, 3) for value in levels] == ["1", "2", "3", "2", "2", "3", "1"] + [""] * 8
    assert level_of("5/5", 5) == "5" and level_of(6, 5) == ""


CAPTION = "A man walks a dog."
EDITED = {edit: {"prompt": f"A {edit} walks a dog.", "difficulty": n} for n, edit in enumerate(EDITS, 1)}


def test_prompts():
    import json

    cells, wrong = prompts_of(f"Of course:\n{json.dumps(EDITED, indent=2)}\nEnjoy!", CAPTION)
    assert not wrong and cells["style_prompt"] == "A style walks a dog." and cells["style_difficulty"] == "4"
    flat = '{"subject": "A robot walks a dog.", "background": {"prompt": "A man walks a dog", "difficulty": 2}, ' \
           '"event": {"prompt": "A man feeds a dog.", "difficulty": "hard"}, ' \
           '"style": {"Prompt": "A man in ink walks a dog.", "Difficulty": "L3"}}'  # fmt: skip
    cells, wrong = prompts_of(flat, CAPTION)
    assert cells == {"subject_prompt": "A robot walks a dog.", "event_prompt": "A man feeds a dog.",
                     "style_prompt": "A man in ink walks a dog.", "style_difficulty": "3",
                     "background_difficulty": "2"}  # fmt: skip
    assert wrong == {"background_prompt": "background changes nothing", "combination_prompt": "combination is missing",
                     "subject_difficulty": "subject has no difficulty from 1 to 5",
                     "event_difficulty": "event has no difficulty from 1 to 5"}  # fmt: skip
    # Cut off in the middle of the third: what is whole is kept.
    cells, wrong = prompts_of(json.dumps(EDITED)[:150], CAPTION)
    assert cells["subject_prompt"] and cells["background_difficulty"] == "2" and "style_prompt" in wrong


def test_found_in_never_fails():
    for answer in ("{" * 2000, "}{", '{"a": [1, 2', "{'a': __import__('os')}", '{"subject": {"subject": "x"}}',
                   "\x00{1: 2}"):
        assert isinstance(found_in(answer, ("subject", "a")), dict)


class Model:
    """Answers one after the other, and what it was asked."""

    chats = True

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def ask(self, frames, words, tokens):
        self.asked.append((len(frames), words))
        return self.answers.pop(0)


def row(**cells):
    return dict.fromkeys(COLUMNS, "") | {"name": "clip"} | cells


def test_what_is_missing_is_asked_again_and_a_persons_cells_stay():
    import json

    model = Model(PLAIN.replace('"animal"', '"robot"'), PLAIN, json.dumps(EDITED))
    mine = row(background="urban", style_prompt="A man walks a dog, in oil.")
    assert annotate(mine, [0] * 8, model) == []
    assert {column: mine[column] for column in WANTED} == WANTED | {"background": "urban"}
    assert mine["style_prompt"] == "A man walks a dog, in oil." and mine["event_prompt"] == "A event walks a dog."
    assert mine["combination_of"] == " and ".join(pair_of("clip")) and len(set(pair_of("clip"))) == 2
    assert [count for count, _ in model.asked] == [8, 8, 8] and model.asked[0][1] == labels_question()
    assert "subject is 'robot'" in model.asked[1][1] and WANTED["caption"] in model.asked[2][1]


def test_a_model_that_never_answers_leaves_the_cells_to_a_person():
    model = Model("no", "no")
    mine = row()
    told = annotate(mine, [0] * 8, model)
    assert len(told) == len(WANTED) and not any(mine[column] for column in WANTED)
    assert len(model.asked) == 2  # no edits without a caption


def test_a_captioner_that_does_not_chat_writes_the_caption():
    class Silent:
        chats = False

        def caption(self, frame):
            return f"frame {frame} of a goat"

    mine = row()
    assert "only captions" in annotate(mine, list(range(8)), Silent())[0] and mine["caption"] == "frame 4 of a goat"


def test_the_questions_name_every_class_and_edit():
    for words in (*[name for names in CLASSES.values() for name in names], "caption", "1 simple"):
        assert words in labels_question()
    asked = prompts_question(row(caption=CAPTION), ("event", "style"))
    assert CAPTION in asked and "change the event and the style at once" in asked
    assert all(edit in asked for edit in EDITS)
