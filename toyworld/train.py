"""`python -m steadyedit toyworld train NAME`: run one recipe from its fixed seed, resuming where it stopped."""

from __future__ import annotations

from importlib import import_module

NAMES = ("vae", "unet", "clip", "classifier", "editor", "controlnet", "wan_vae", "wan", "sam", "grounder")


def main(name: str, **options) -> None:
    """Train `name`; options go to the recipe (steps, batch, peak, ...)."""
    if name not in NAMES:
        raise ValueError(f"There is no recipe {name!r}: choose one of {', '.join(NAMES)}.")
    import_module(f".recipes.{name}", __package__).train(**options)
