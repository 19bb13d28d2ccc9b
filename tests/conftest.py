"""Make the tree importable as ``steadyedit`` where it is not installed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

NAME = "steadyedit"

if importlib.util.find_spec(NAME) is None:
    root = Path(__file__).resolve().parents[1]
    spec = importlib.util.spec_from_file_location(NAME, root / "__init__.py", submodule_search_locations=[str(root)])
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    spec.loader.exec_module(module)
