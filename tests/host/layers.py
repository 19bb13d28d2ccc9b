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
#: Columns may begin lower by these, so that links pass between nodes and not behind them.
LOWER = range(0, 361, 60)
#: Between nodes of a column, between columns, from a group's frame to its nodes, between groups.
GAP, BETWEEN, PAD, APART = 36, 70, 24, 60


@dataclass
class Box:
    """A node as the layout sees it."""

    width: float
    #: Without the title; with what a preview adds after a run.
    height: float
    #: Without the title and without a preview.
    drawn: float
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
        self._drawn = np.array([(box.width, box.drawn) for box in boxes.values()])
        self.ranks = self._ranks()
        self.lower = [[0] * len(columns) for columns in self.groups]
        index = {key: i for i, key in enumerate(boxes)}
        self._ends = np.array([(index[one.origin], index[one.target]) for one in links]).reshape(-1, 2)
        self._offsets = np.array([(boxes[one.origin].outputs[one.output], boxes[one.target].inputs[one.input],
                                   boxes[one.origin].width) for one in links]).reshape(-1, 3)  # fmt: skip

    def _ranks(self) -> list[int]:
        """Which groups may stand below each other: those that follow on the same number of others."""
        ranks: list[int] = []
        for group in range(len(self.groups)):
            before = {self.boxes[one.origin].group for one in self.links if self.boxes[one.target].group == group}
            ranks.append(max((ranks[other] + 1 for other in before if other < group), default=0))
        # In the order of the groups: one that stands later never begins further to the left.
        return [max(ranks[: i + 1]) if ranks[i] else 0 for i in range(len(ranks))]

    def places(self) -> tuple[dict[str, tuple[float, float]], list[tuple[float, float, float, float]]]:
        """Each node's place, and the frame of each group: x, y, width, height."""
        found: dict[str, tuple[float, float]] = {}
        frames, right, below = {}, self.left, {}
        for group in sorted(range(len(self.groups)), key=self.ranks.__getitem__):
            columns, lower, rank = self.groups[group], self.lower[group], self.ranks[group]
            if rank not in below:
                # Groups of one rank stand below each other.
                below[rank] = (right, 0.0)
            begin, above = below[rank]
            x, bottom = begin + PAD, above
            top = min(lower)
            for column, down in zip(columns, lower):
                y = above + TITLE + PAD + down - top
                for key in column:
                    found[key] = (x, y + TITLE)
                    y += TITLE + self.boxes[key].height + GAP
                bottom = max(bottom, y - GAP)
                x += max(self.boxes[key].width for key in column) + BETWEEN
            x += PAD - BETWEEN
            frames[group] = (begin, above, x - begin, bottom + PAD - above)
            right = max(right, x + APART)
            below[rank] = (begin, bottom + PAD + APART)
        return found, [frames[group] for group in range(len(self.groups))]

    def ends(self, at: np.ndarray) -> np.ndarray:
        """Where each link begins and ends, [links, 4], with the nodes at these places."""
        start, end = at[self._ends[:, 0]].astype(float), at[self._ends[:, 1]].astype(float)
        start[:, 0] += self._offsets[:, 2]
        start[:, 1] += self._offsets[:, 0]
        end[:, 1] += self._offsets[:, 1]
        return np.concatenate([start, end], 1)

    def behind(self, at: np.ndarray, ends: np.ndarray) -> int:
        """How many nodes links pass behind, each counted once per link."""
        along = np.linspace(0, 1, 24)[None, :, None]
        points = (ends[:, None, :2] * (1 - along) + ends[:, None, 2:] * along)[:, :, None]
        low, high = at - (0, TITLE), at + self._drawn
        hit = ((points > low) & (points < high)).all(-1).any(1)
        rows = np.arange(len(ends))
        hit[rows, self._ends[:, 0]] = hit[rows, self._ends[:, 1]] = False
        return int(hit.sum())

    def cost(self) -> float:
        """Crossings and nodes that cover links; among arrangements with as many the flat one with short links."""
        places, frames = self.places()
        at = np.array([places[key] for key in self.boxes])
        ends, height = self.ends(at), max(frame[1] + frame[3] for frame in frames)
        return (crossings(ends) + self.behind(at, ends) + np.abs(ends[:, 1] - ends[:, 3]).sum() / 4000 + height / 200
                + sum(map(sum, self.lower)) / 2000)  # fmt: skip

    def improve(self) -> None:
        """Reorder and lower columns as long as that helps, and choose where loaders stand; the same for the same graph.

        A group that follows on no other stands at the left, or beside the first group that takes something from it,
        where that is better: far links cross much.
        """
        first, ranks, found = self._state(), self.ranks, []
        for late in (False, True):
            self.ranks = self._beside_their_readers(ranks) if late else ranks
            if late and self.ranks == ranks:
                break
            self.groups, self.lower = first
            first = self._state()
            self._anneal()
            found.append((self.cost(), self._state(), self.ranks))
        _, (self.groups, self.lower), self.ranks = min(found, key=lambda one: one[0])

    def _beside_their_readers(self, ranks: list[int]) -> list[int]:
        """Ranks with each group that follows on none, but the first group, in the rank of its first reader."""
        between = {(self.boxes[one.origin].group, self.boxes[one.target].group) for one in self.links}
        between = {(origin, target) for origin, target in between if origin != target}
        following = {target for _, target in between}
        return [rank if group == 0 or group in following
                else min((ranks[target] for origin, target in between if origin == group), default=rank)
                for group, rank in enumerate(ranks)]  # fmt: skip

    def _anneal(self, steps: int = 6000, seed: int = 0) -> None:
        """Change one column at a time; what harms is kept the less, the later it comes."""
        draw = random.Random(seed)
        columns = [(group, at) for group, found in enumerate(self.groups) for at in range(len(found))]
        if not self.links:
            return
        cost = best = self.cost()
        kept = self._state()
        for step in range(steps):
            group, at = draw.choice(columns)
            before, down = list(self.groups[group][at]), self.lower[group][at]
            if len(before) > 1 and draw.random() < 0.6:
                column = self.groups[group][at]
                column.insert(draw.randrange(len(column)), column.pop(draw.randrange(len(column))))
            else:
                self.lower[group][at] = draw.choice(LOWER)
            new = self.cost()
            if new <= cost or draw.random() < np.exp((cost - new) / (2.0 * (1 - step / steps) + 1e-6)):
                cost = new
                if cost < best:
                    best, kept = cost, self._state()
            else:
                self.groups[group][at], self.lower[group][at] = before, down
        self.groups, self.lower = kept

    def _state(self) -> tuple[list[list[list[str]]], list[list[int]]]:
        return [[list(one) for one in columns] for columns in self.groups], [list(one) for one in self.lower]
