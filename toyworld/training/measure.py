"""`python -m steadyedit toyworld measure`: trained models against their bars; the numbers go to their sidecars."""

from __future__ import annotations

from .. import models
from .loop import add_bars


def measure_vae() -> dict:
    from .recipes.vae import measure

    return measure(models.load_vae())


def measure_classifier() -> dict:
    from .recipes.classifier import measure

    judge = models.load_classifier()
    return {**measure(judge), **measure(judge, boxes=True)}


def measure_unet() -> dict:
    from .judging.prompts import inversion_round_trip, judge_prompts

    return {**judge_prompts(), **inversion_round_trip()}


def measure_clip() -> dict:
    from .recipes.clip import measure

    return measure(models.load_clip())


def measure_editor() -> dict:
    from .judging.instructions import judge_edits

    return judge_edits()


def measure_flow_editor() -> dict:
    from .judging.flow import judge_flow_edits

    return judge_flow_edits()


def measure_wan_vae() -> dict:
    from .recipes.wan_vae import measure, own_vae

    return measure(own_vae())


def measure_wan() -> dict:
    from .judging.clips import judge_clips

    return judge_clips()


def measure_controlnet() -> dict:
    from .judging.prompts import judge_control

    return judge_control()


def measure_sam() -> dict:
    from .recipes.sam import measure

    return measure(models.load_sam())


def measure_grounder() -> dict:
    from .recipes.grounder import measure

    return measure(models.load_grounder())


MEASURES = {
    "vae": measure_vae, "classifier": measure_classifier, "unet": measure_unet, "clip": measure_clip,
    "editor": measure_editor, "controlnet": measure_controlnet,
    "wan_vae": measure_wan_vae, "wan": measure_wan, "sam": measure_sam,
    "grounder": measure_grounder, "flow_editor": measure_flow_editor,
}


def main(*names: str) -> dict:
    """Measure `names` (all that have weights, if none), print and record."""
    answer = {}
    for name in names or [name for name in MEASURES if (models.WEIGHTS / f"{name}.safetensors").is_file()]:
        if name not in MEASURES:
            raise ValueError(f"There is no measure for {name!r}: choose among {', '.join(MEASURES)}.")
        answer[name] = MEASURES[name]()
        add_bars(name, answer[name])
        print(name, answer[name], flush=True)
    return answer
