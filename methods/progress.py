"""Progress bars of longer work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..backends.protocol import Progress


@dataclass
class Part:
    """One run's share of a longer progress bar."""

    whole: Progress
    offset: int

    def update(self, value: int, preview: Any = None, **numbers: float) -> None:
        self.whole.update(self.offset + value, preview, **numbers)
