"""Editing a part of large frames at a model's size: a box around the mask, and its way back into the plate."""
