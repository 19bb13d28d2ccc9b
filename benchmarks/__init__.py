"""Measurements against the toy world's known answers: ``python -m steadyedit bench NAME``.

Every folder with a ``run.py`` is a benchmark; its ``main`` has keywords for the options that it takes
(clips, methods, json_path, sizes). Beside it, ``methods.py`` has what is compared and ``report.py`` how it is shown.
All write the JSON that ``common/report.py`` describes; ``results/`` keeps what was measured.
"""
