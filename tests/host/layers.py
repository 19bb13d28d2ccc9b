"""Where the nodes of a graph go: groups side by side, layers from left to right inside of each, few crossing links.

Pure arithmetic on sizes; ``layout.py`` measures these in the editor. Lengths are the canvas's own pixels; y grows
downwards, and a node's place is its upper left corner *below* its title, as the editor saves it.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import combinations
from typing import NamedTuple

import numpy as np

TITLE = 30
#: Nodes may stand lower by these, so that links pass between nodes and not behind them; and groups may begin lower.
LOWER, DROP = (*range(0, 601, 60), 800, 1000, 1300), range(0, 1501, 150)
#: Between nodes of a column, between columns, from a group's frame to its nodes, between groups.
GAP, BETWEEN, PAD, APART = 36, 70, 24, 60
#: From a node's side to the middle of its sockets, where the editor's links begin and end.
SOCKET = 10
#: Crossings per link that will do: the editor's own sizes add some.
FEW = 0.97
#: How low bends may lie; above 0: over all groups.
BENT, NUDGED = range(-120, 2401, 30), (-60, -30, 30, 60)


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


class Bend(NamedTuple):
    """A point that all links from an output into a group pass, left of that group; the editor's reroute."""

    origin: str
    output: int
    group: int


def crossings(ends: np.ndarray) -> int:
    """Pairs of straight links that cross; those that share an end do not.

    Args:
        ends: [links, 4]: x and y of each link's start, x and y of its end.
    """
    start, end = ends[:, :2], ends[:, 2:]
    along, count = end - start, len(ends)
    # On which side of each link (a row) the others begin and end; 0: on it.
    line = np.stack([-along[:, 1], along[:, 0], along[:, 1] * start[:, 0] - along[:, 0] * start[:, 1]], 1)
    side = line @ np.concatenate([np.concatenate([start, end]), np.ones((2 * count, 1))], 1).T
    begins, stops = side[:, :count], side[:, count:]
    hair = 1e-6 * np.abs(line[:, 2]).max(initial=1)
    parted = (np.maximum(begins, stops) > hair) & (np.minimum(begins, stops) < -hair)
    return int((parted & parted.T).sum()) // 2


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


@dataclass
class Order:
    """Which node stands where: what the search changes."""

    #: For each group its columns, each a list of nodes from top to bottom; and how much each node is lowered.
    groups: list[list[list[str]]]
    lower: dict[str, int]
    #: For each group how far to the right it stands, and how much lower it begins. Those of one rank stand below each
    #: other, in the order of ``turn``.
    ranks: list[int]
    turn: list[int]
    drop: list[int]
    #: How low each bend lies.
    bends: dict[Bend, int] = field(default_factory=dict)

    def copy(self) -> Order:
        return Order([[list(one) for one in columns] for columns in self.groups], dict(self.lower),
                     list(self.ranks), list(self.turn), list(self.drop), dict(self.bends))  # fmt: skip


class Arrangement:
    """Places for the nodes of a graph."""

    def __init__(self, boxes: dict[str, Box], links: list[Link], left: float = 0.0):
        self.boxes, self.links, self.left = boxes, links, left
        count = max(box.group for box in boxes.values()) + 1
        self._pairs = self._between()
        self._following = {target for _, target in self._pairs}
        groups = []
        for group in range(count):
            keys = [key for key, box in boxes.items() if box.group == group]
            layer = columns_of(keys, links)
            groups.append([[key for key in keys if layer[key] == at] for at in range(max(layer.values()) + 1)])
        self.order = Order(groups, dict.fromkeys(boxes, 0), self._ranks(count), list(range(count)),
                           [0] * count)  # fmt: skip
        self._index = index = {key: i for i, key in enumerate(boxes)}
        self._drawn = np.array([(box.width, box.drawn) for box in boxes.values()])
        self._ends = np.array([(index[one.origin], index[one.target]) for one in links]).reshape(-1, 2)
        self._offsets = np.array([(boxes[one.origin].outputs[one.output], boxes[one.target].inputs[one.input],
                                   boxes[one.origin].width) for one in links]).reshape(-1, 3)  # fmt: skip
        #: Nodes of the same group that a node must stand right of, and left of.
        inner = [(one.origin, one.target) for one in links if boxes[one.origin].group == boxes[one.target].group]
        #: Each bend, with the one that its links pass before it; the last one that a link passes, by its place.
        self.bends: dict[Bend, Bend | None] = {}
        self.last: dict[int, Bend] = {}
        self._segments = self._straight()
        self._before = {key: [origin for origin, target in inner if target == key] for key in boxes}
        self._behind = {key: [target for origin, target in inner if origin == key] for key in boxes}

    def _straight(self) -> np.ndarray:
        """Every link in one piece, from its output to its input."""
        count = len(self.links)
        self._own = np.tile(np.arange(count), 2), self._ends.T.reshape(-1)
        return np.stack([np.arange(count), count + np.arange(count)], 1)

    def bend(self) -> None:
        """Let links from one output into several groups, or to several nodes of one, run together to their groups.

        Groups keep their ranks from here on.
        """
        ranks, far = self.order.ranks, defaultdict(lambda: defaultdict(list))
        self.bends, self.last = {}, {}
        for at, one in enumerate(self.links):
            group = self.boxes[one.target].group
            if ranks[group] > ranks[self.boxes[one.origin].group]:
                far[one.origin, one.output][group].append(at)
        for output, groups in far.items():
            if sum(map(len, groups.values())) > 1:
                for group in sorted(groups, key=ranks.__getitem__):
                    before = [one for one in self.bends if one[:2] == output and ranks[one.group] < ranks[group]]
                    self.bends[Bend(*output, group)] = before[-1] if before else None
                    self.last |= dict.fromkeys(groups[group], Bend(*output, group))
        count, point = len(self.links), {one: 2 * len(self.links) + at for at, one in enumerate(self.bends)}
        first = {one: next(at for at, last in self.last.items() if last == one) for one in self.bends}
        links = [(point[self.last[at]] if at in self.last else at, count + at) for at in range(count)]
        between = [(first[one] if before is None else point[before], point[one]) for one, before in self.bends.items()]
        self._segments = np.array(links + between)
        nodes = [*self._ends[:, 0], *self._ends[:, 1], *[-1] * len(point)]
        self._own = tuple(np.array([(piece, nodes[end]) for piece, ends in enumerate(self._segments) for end in ends
                                    if nodes[end] >= 0]).T)  # fmt: skip
        self.order.bends = {one: BENT[at] for at, one in enumerate(self.bends)}

    def bent(self) -> dict[Bend, tuple[float, float]]:
        """Where each bend lies."""
        _, frames = self.places()
        return self._bent(frames)

    def _bent(self, frames: list[tuple[float, float, float, float]]) -> dict[Bend, tuple[float, float]]:
        return {one: (frames[one.group][0] - APART / 2, y) for one, y in self.order.bends.items()}

    def _between(self) -> set[tuple[int, int]]:
        """Pairs of groups of which the second takes something from the first."""
        pairs = {(self.boxes[one.origin].group, self.boxes[one.target].group) for one in self.links}
        return {(origin, target) for origin, target in pairs if origin != target}

    def _ranks(self, count: int) -> list[int]:
        """Which groups may stand below each other: those that follow on the same number of others."""
        ranks: list[int] = []
        for group in range(count):
            before = {origin for origin, target in self._pairs if target == group}
            ranks.append(max((ranks[other] + 1 for other in before if other < group), default=0))
        # In the order of the groups: one that stands later never begins further to the left.
        return [max(ranks[: i + 1]) if ranks[i] else 0 for i in range(len(ranks))]

    def _beside_their_readers(self, ranks: list[int]) -> list[int]:
        """Ranks with each group that follows on none, but the first group, in the rank of its first reader."""
        return [rank if group == 0 or group in self._following
                else min((ranks[target] for origin, target in self._pairs if origin == group), default=rank)
                for group, rank in enumerate(ranks)]  # fmt: skip

    def _in_order(self, ranks: list[int]) -> bool:
        """Whether groups stand from left to right as they are numbered; those that follow on none may stand later."""
        numbered = [ranks[group] for group in range(len(ranks)) if group == 0 or group in self._following]
        return ranks[0] == 0 and numbered == sorted(numbered) and all(
            ranks[origin] <= ranks[target] for origin, target in self._pairs)

    def places(self) -> tuple[dict[str, tuple[float, float]], list[tuple[float, float, float, float]]]:
        """Each node's place, and the frame of each group: x, y, width, height."""
        order, right = self.order, self.left
        found: dict[str, tuple[float, float]] = {}
        frames: dict[int, tuple[float, float, float, float]] = {}
        below: dict[int, tuple[float, float]] = {}
        for group in sorted(order.turn, key=order.ranks.__getitem__):
            columns, rank = order.groups[group], order.ranks[group]
            if rank not in below:
                # Groups of one rank stand below each other.
                below[rank] = (right, 0.0)
            begin, above = below[rank]
            above += order.drop[group]
            x, bottom = begin + PAD, above
            top = min(order.lower[column[0]] for column in columns)
            for column in columns:
                y = above + TITLE + PAD - top
                for key in column:
                    y += order.lower[key]
                    found[key] = (x, y + TITLE)
                    y += TITLE + self.boxes[key].height + GAP
                bottom = max(bottom, y - GAP)
                x += max(self.boxes[key].width for key in column) + BETWEEN
            x += PAD - BETWEEN
            frames[group] = (begin, above, x - begin, bottom + PAD - above)
            right = max(right, x + APART)
            below[rank] = (begin, bottom + PAD + APART)
        return found, [frames[group] for group in range(len(order.groups))]

    def ends(self, at: np.ndarray, frames: list[tuple[float, float, float, float]]) -> np.ndarray:
        """Where each piece of a link begins and ends, [pieces, 4], with the nodes at these places."""
        start, end = at[self._ends[:, 0]].astype(float), at[self._ends[:, 1]].astype(float)
        start[:, 0] += self._offsets[:, 2] - SOCKET
        start[:, 1] += self._offsets[:, 0]
        end[:, 0] += SOCKET
        end[:, 1] += self._offsets[:, 1]
        points = np.concatenate([start, end, np.array([*self._bent(frames).values()], float).reshape(-1, 2)])
        return points[self._segments].reshape(-1, 4)

    def hidden(self, at: np.ndarray, ends: np.ndarray) -> int:
        """How many nodes links pass behind, each counted once per link."""
        first, last = 0.0, 1.0
        for axis, above in ((0, 0), (1, TITLE)):
            # Where on the way from start (0) to end (1) a link is between the node's sides.
            start, along = ends[:, axis, None], (ends[:, axis + 2] - ends[:, axis])[:, None]
            along = 1 / np.where(along == 0, 1e-9, along)
            enter, leave = (at[:, axis] - above - start) * along, (at[:, axis] + self._drawn[:, axis] - start) * along
            first = np.maximum(first, np.minimum(enter, leave))
            last = np.minimum(last, np.maximum(enter, leave))
        hit = first < last
        hit[self._own] = False
        return int(hit.sum())

    def cost(self) -> float:
        """Crossings, links from right to left, nodes that cover links; among as many the flat one with short links."""
        places, frames = self.places()
        at = np.array([places[key] for key in self.boxes])
        ends, height = self.ends(at, frames), max(frame[1] + frame[3] for frame in frames)
        steep, back = np.abs(ends[:, 1] - ends[:, 3]).sum(), (ends[:, 0] > ends[:, 2]).sum()
        lowered = sum(self.order.lower.values()) + 4 * sum(self.order.drop)
        crossed, bends = crossings(ends), [*self._bent(frames).values()]
        close = sum(a[0] == b[0] and abs(a[1] - b[1]) < GAP for a, b in combinations(bends, 2))
        many = max(crossed - len(self.links), 0)
        return (crossed + 2 * many + 3 * close + 2 * back + self.hidden(at, ends) / 3 + height / 400
                + (steep + 2 * lowered) / 4000)  # fmt: skip

    def improve(self, steps: int = 12000, tries: int = 3, bends: bool = True) -> None:
        """Reorder, lower and exchange as long as that helps; the same for the same graph.

        A group that follows on no other stands at the left, or beside the first group that takes something from it,
        where that is better: far links cross much. Begun anew while more links cross than there are; where that does
        not help, links run together to their groups.
        """
        if not self.links:
            return
        first, found = self.order, []
        late = self._beside_their_readers(first.ranks)
        for attempt in range(tries):
            self.order = first.copy()
            self.order.ranks = list((first.ranks, late)[attempt % 2])
            found.append((self._anneal(steps, attempt), self.order))
            if attempt and min(self.crossings_of(order) for _, order in found) <= len(self.links):
                break
        few = [one for one in found if self.crossings_of(one[1]) <= len(self.links)]
        _, self.order = min(few or found, key=lambda one: one[0])
        if bends and not few:
            # From left to right in the order of their numbers: that groups stand below each other saves little then.
            for attempt in range(tries):
                self.order = first.copy()
                self.bend()
                self._anneal(2 * steps, attempt)
                if self.crossings_of(self.order) <= FEW * len(self.links):
                    break

    def crossings_of(self, order: Order) -> int:
        """Of links, were the nodes in this order."""
        self.order = order
        places, frames = self.places()
        return crossings(self.ends(np.array([places[key] for key in self.boxes]), frames))

    def _anneal(self, steps: int, seed: int = 0) -> float:
        """Change one thing at a time; what harms is kept the less, the later it comes. The least cost."""
        draw = random.Random(seed)
        cost = best = self.cost()
        kept = self.order.copy()
        for step in range(steps):
            if (undo := self._change(draw)) is None:
                continue
            new = self.cost()
            if new <= cost or draw.random() < np.exp((cost - new) / (3.0 * (1 - step / steps) ** 2 + 1e-6)):
                cost = new
                if cost < best:
                    best, kept = cost, self.order.copy()
            else:
                self.order = undo
        self.order = kept
        return best

    def _change(self, draw: random.Random) -> Order | None:
        """One change of the order, and the order before it; None: this one would not go."""
        order, before = self.order, self.order.copy()
        group = draw.randrange(len(order.groups))
        if order.bends and draw.random() < 0.3:
            one = draw.choice([*order.bends])
            near = [y for by in NUDGED if (y := order.bends[one] + by) in BENT]
            order.bends[one] = draw.choice(BENT if draw.random() < 0.5 else near)
            return before
        columns, kind = order.groups[group], draw.random()
        at = draw.randrange(len(columns))
        column = columns[at]
        if kind < 0.4 and len(column) > 1:
            column.insert(draw.randrange(len(column)), column.pop(draw.randrange(len(column))))
        elif kind < 0.55 and len(columns) > 1:
            key = draw.choice(column)
            where = {one: place for place, keys in enumerate(columns) for one in keys}
            low = max((where[one] for one in self._before[key]), default=-1) + 1
            high = min((where[one] for one in self._behind[key]), default=len(columns)) - 1
            to = draw.randint(low, high)
            if to == at or len(column) == 1:
                return None
            column.remove(key)
            columns[to].insert(draw.randint(0, len(columns[to])), key)
        elif kind < 0.85:
            key = draw.choice(column)
            order.lower[key] = draw.choice(LOWER) if draw.random() < 0.5 else 0
        elif kind < 0.92:
            order.drop[group] = draw.choice(DROP)
        elif kind < 0.96 and not order.bends:
            order.ranks[group] = draw.randrange(max(order.ranks) + 1)
            if not self._in_order(order.ranks):
                self.order = before
                return None
        else:
            same = [one for one in range(len(order.groups)) if order.ranks[one] == order.ranks[group] and one != group]
            if not same:
                return None
            a, b = order.turn.index(group), order.turn.index(draw.choice(same))
            order.turn[a], order.turn[b] = order.turn[b], order.turn[a]
        return before
