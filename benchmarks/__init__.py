"""Measurements against the toy world's known answers: ``python -m steadyedit bench NAME``.

Every public module here is a benchmark with ``main(clips, methods, json_path)``; all write
the JSON that ``_report`` describes. Modules with an underscore are their common parts.
"""
