"""Measurements against the toy world's known answers: ``python -m steadyedit bench NAME``.

Every public module here is a benchmark with a ``main`` whose keywords are the options that it
takes (clips, methods, json_path, sizes); all write the JSON that ``_report`` describes.
Modules with an underscore are their common parts.
"""
