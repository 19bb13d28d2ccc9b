"""What version 0.1.0 has left behind: its graphs in both forms, and weights that its own code tuned and saved.

``tests/saved_0_1_0`` is a record; nothing in it is ever written anew. ``double_ei2`` is STAM and FFAM with queries,
tuned for two steps on the test double, ``toy_norms`` is norm-tuning on the toy U-Net, and ``expected`` is what 0.1.0
predicted with them.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("saved_0_1_0")
#: Graphs as the host's API takes them, by name.
API: dict[str, dict[str, Any]] = json.loads((FOLDER / "api.json").read_text(encoding="utf-8"))
#: Only the frontend has these widgets.
FRONTEND_ONLY = {"control_after_generate", "upload"}


def editor_graphs() -> dict[str, dict[str, Any]]:
    """The same graphs as the editor saved them."""
    return json.loads(gzip.decompress((FOLDER / "editor.json.gz").read_bytes()))


def ours(class_type: str) -> bool:
    return class_type.startswith("SteadyEdit")
