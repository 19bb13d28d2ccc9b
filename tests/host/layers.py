"""Where the nodes of a graph go: groups side by side, layers from left to right inside of each, few crossing links.

Pure arithmetic on sizes; ``layout.py`` measures these in the editor. Lengths are the canvas's own pixels; y grows
downwards, and a node's place is its upper left corner *below* its title, as the editor saves it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

TITLE = 30
#: Between nodes of a column, between columns, from a group's frame to its nodes, between groups.
GAP, BETWEEN, PAD, APART = 36, 70, 24, 60


@dataclass
class Box:
    """A node as the layout sees it."""

    width: float
    #: Without the title; with what a preview adds after a run.
    height: float
    group: int
    #: Of each input and output, below the node's place.
    inputs: list[float] = field(default_factory=list)
    outputs: list[float] = field(default_factory=list)


class Link(NamedTuple):
    """From an output to an input, by the keys of their nodes."""

    origin: str
    output: int
    target: str
    input: int


def crossings(ends: np.ndarray) -> int:
    """Pairs of straight links that cross; those that share an end do not.

    Args:
        ends: [links, 4]: x and y of each link's start, x and y of its end.
    """
    start, end = ends[:, :2], ends[:, 2:]

    def side(a, b, c):
        return np.sign((b[..., 0] - a[..., 0]) * (c[..., 1] - a[..., 1])
                       - (b[..., 1] - a[..., 1]) * (c[..., 0] - a[..., 0]))  # fmt: skip

    a, b, c, d = start[:, None], end[:, None], start[None], end[None]
    return int(((side(a, b, c) * side(a, b, d) < 0) & (side(c, d, a) * side(c, d, b) < 0)).sum()) // 2


def columns_of(keys: list[str], links: list[Link]) -> dict[str, int]:
    """A layer for each node of a group: right of what it reads, and what reads nothing just before its reader."""
    inner = [(one.origin, one.target) for one in links if one.origin in keys and one.target in keys]
    layer = dict.fromkeys(keys, 0)
    for _ in keys:
        for origin, target in inner:
            layer[target] = max(layer[target], layer[origin] + 1)
    reads = {target for _, target in inner}
    for key in keys:
        readers = [layer[target] for origin, target in inner if origin == key]
        if readers and key not in reads:
            layer[key] = min(readers) - 1
    return layer


class Arrangement:
    """Which node stands where: for each group its columns, each a list of nodes from top to bottom."""

    def __init__(self, boxes: dict[str, Box], links: list[Link], left: float = 0.0):
        self.boxes, self.links, self.left = boxes, links, left
        self.groups: list[list[list[str]]] = []
        for group in range(max(box.group for box in boxes.values()) + 1):
            keys = [key for key, box in boxes.items() if box.group == group]
            layer = columns_of(keys, links)
            self.groups.append([[key for key in keys if layer[key] == at] for at in range(max(layer.values()) + 1)])
        index = {key: i for i, key in enumerate(boxes)}
        self._ends = np.array([(index[one.origin], index[one.target]) for one in links]).reshape(-1, 2)
        self._offsets = np.array([(boxes[one.origin].outputs[one.output], boxes[one.target].inputs[one.input],
                                   boxes[one.origin].width) for one in links]).reshape(-1, 3)  # fmt: skip

    def places(self) -> tuple[dict[str, tuple[float, float]], list[tuple[float, float, float, float]]]:
        """Each node's place, and the frame of each group: x, y, width, height."""
        found, frames, x = {}, [], self.left
        for columns in self.groups:
            begin, bottom = x, 0.0
            x += PAD
            for column in columns:
                y = TITLE + PAD
                for key in column:
                    found[key] = (x, y + TITLE)
                    y += TITLE + self.boxes[key].height + GAP
                bottom = max(bottom, y - GAP)
                x += max(self.boxes[key].width for key in column) + BETWEEN
            x += PAD - BETWEEN
            frames.append((begin, 0.0, x - begin, bottom + PAD))
            x += APART
        return found, frames

    def ends(self) -> np.ndarray:
        """Where each link begins and ends, [links, 4]."""
        places, _ = self.places()
        at = np.array([places[key] for key in self.boxes])
        start, end = at[self._ends[:, 0]].astype(float), at[self._ends[:, 1]].astype(float)
        start[:, 0] += self._offsets[:, 2]
        start[:, 1] += self._offsets[:, 0]
        end[:, 1] += self._offsets[:, 1]
        return np.concatenate([start, end], 1)

    def cost(self) -> float:
        """Crossings, and among arrangements with as many the one with shorter links."""
        ends = self.ends()
        return crossings(ends) + np.abs(ends[:, 1] - ends[:, 3]).sum() / 20_000

    def improve(self, steps: int = 4000, seed: int = 0) -> None:
        """Swap nodes within their columns as long as that helps: annealed, and the same for the same graph."""
        draw = random.Random(seed)
        columns = [column for group in self.groups for column in group if len(column) > 1]
        if not columns or not self.links:
            return
        cost = best = self.cost()
        kept = [list(column) for column in columns]
        for step in range(steps):
            column = draw.choice(columns)
            before = list(column)
            column.insert(draw.randrange(len(column)), column.pop(draw.randrange(len(column))))
            new = self.cost()
            if new <= cost or draw.random() < np.exp((cost - new) / (2.0 * (1 - step / steps) + 1e-6)):
                cost = new
                if cost < best:
                    best, kept = cost, [list(one) for one in columns]
            else:
                column[:] = before
        for column, order in zip(columns, kept):
            column[:] = order
