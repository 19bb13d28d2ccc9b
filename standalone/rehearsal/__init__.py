"""Rehearsal: shipped graphs run whole in a real ComfyUI, on narrow random weights in the files' true formats."""
