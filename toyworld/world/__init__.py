"""Scenes, their clips and captions, and edits with true answers."""
