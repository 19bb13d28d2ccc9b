"""`python -m steadyedit toyworld train NAME`: run one recipe from its fixed seed, resuming where it stopped."""

from __future__ import annotations

from importlib import import_module

NAMES = ("vae", "unet", "clip", "classifier", "editor", "controlnet", "wan_vae", "wan", "sam", "grounder",
         "flow_editor")
#: recipes that follow one another, where there are several
STAGES = {"wan_vae": ("wan_vae", "wan_vae_settle"), "flow_editor": ("flow_editor", "flow_editor_forms"),
          "wan": ("wan_calm",)}  # the calm one runs those before it itself


def main(name: str, **options) -> None:
    """Train `name`; options go to the last of its recipes (steps, batch, peak, ...)."""
    if name not in NAMES:
        raise ValueError(f"There is no recipe {name!r}: choose one of {', '.join(NAMES)}.")
    *before, last = STAGES.get(name, (name,))
    for stage in before:
        import_module(f".recipes.{stage}", __package__).train()
    import_module(f".recipes.{last}", __package__).train(**options)
