"""Where boxes stand: in rows along the flow of values, the backward pass beside the forward one.

Rows are numbers of steps on the longest way from an input, as in Sugiyama, Tagawa and Toda
("Methods for visual understanding of hierarchical system structures", 1981): edges that cross
rows get a bend in each of them, boxes of a row are ordered by where their neighbours stand, and
then moved as near to these as the order allows. A gradient stands in the row of its layer and
flows upwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from graphc.report.boxes import Boxes

WIDTH, HEIGHT = 190.0, 54.0
GAP, ROW_GAP, LANE_GAP = 18.0, 30.0, 90.0
_BEND = 10.0  # the width that an edge takes in a row it crosses
_SWEEPS = 6

Point = tuple[float, float]


@dataclass(frozen=True)
class Place:
    """The left upper corner of a box."""

    x: float
    y: float


@dataclass(frozen=True)
class Picture:
    """Places of boxes by key, the points of each edge, and how large all of it is."""

    places: dict[str, Place]
    routes: dict[tuple[str, str], list[Point]]
    width: float
    height: float


def arrange(boxes: Boxes) -> Picture:
    """Lay out. Forward boxes stand left, backward ones right."""
    rows = _rows(boxes)
    lanes = [
        [box.key for box in boxes.boxes if box.backward is backward] for backward in (False, True)
    ]
    centres: dict[str, float] = {}
    bends: dict[tuple[str, str], list[Point]] = {}
    left = GAP
    for lane in lanes:
        made = _Lane(lane, rows, boxes.edges)
        made.run()
        shift = left - made.left
        centres |= {key: x + shift for key, x in made.x.items() if key in rows}
        for edge, names in made.bends.items():
            rises = rows[edge[1]] < rows[edge[0]]
            bends[edge] = [
                point for n in names for point in _through(made.x[n] + shift, made.rows[n], rises)
            ]
        left = made.right + shift + LANE_GAP if lane else left
    places = {key: Place(centres[key] - WIDTH / 2, _top(row)) for key, row in rows.items()}
    height = max((place.y for place in places.values()), default=0.0) + HEIGHT + GAP
    routes = {edge: _route(edge, places, bends.get(edge, [])) for edge in boxes.edges}
    return Picture(places, routes, max(left - LANE_GAP + GAP, WIDTH + 2 * GAP), height)


def _top(row: int) -> float:
    return row * (HEIGHT + ROW_GAP) + GAP


def _through(x: float, row: int, rises: bool) -> list[Point]:
    """Straight through a row, so that an edge bends only between rows."""
    ends = [(x, _top(row)), (x, _top(row) + HEIGHT)]
    return ends[::-1] if rises else ends


def _route(
    edge: tuple[str, str], places: Mapping[str, Place], bends: Sequence[Point]
) -> list[Point]:
    """From the side of the first box that looks to the second, to that one's side."""
    start, end = places[edge[0]], places[edge[1]]
    if start.y == end.y:
        right = end.x > start.x
        middle = start.y + HEIGHT / 2
        return [(start.x + WIDTH * right, middle), (end.x + WIDTH * (not right), middle)]
    down = end.y > start.y
    first = (start.x + WIDTH / 2, start.y + HEIGHT * down)
    last = (end.x + WIDTH / 2, end.y + HEIGHT * (not down))
    return [first, *bends, last]


# -- rows -----------------------------------------------------------------------------------------


def _rows(boxes: Boxes) -> dict[str, int]:
    """The row of each box; gradients of one layer that follow each other take rows of their own."""
    forward = {box.key for box in boxes.boxes if not box.backward}
    rank = _longest_way(forward, boxes.edges)
    _pull_sources(boxes, rank)
    rank_of_layer: dict[str, int] = {}
    for box in boxes.boxes:
        if box.key in rank:
            for layer in box.layers:
                rank_of_layer[layer] = max(rank[box.key], rank_of_layer.get(layer, 0))
    deepest = max(rank.values(), default=0)
    for box in boxes.boxes:
        if box.backward:
            known = [rank_of_layer[layer] for layer in box.layers if layer in rank_of_layer]
            rank[box.key] = max(known, default=deepest)
    backward = {box.key for box in boxes.boxes if box.backward}
    same = [(a, b) for a, b in boxes.edges if {a, b} <= backward and rank[a] == rank[b]]
    depth = _longest_way(backward, same)
    tall = [0] * (deepest + 1)
    for key, level in depth.items():
        tall[rank[key]] = max(tall[rank[key]], level)
    first = [sum(tall[:row]) + row for row in range(deepest + 1)]
    return {
        key: first[row] + (tall[row] - depth[key] if key in depth else 0)
        for key, row in rank.items()
    }


def _longest_way(keys: set[str], edges: Iterable[tuple[str, str]]) -> dict[str, int]:
    """Number of edges on the longest way to each key; edges that close a circle are left out."""
    after: dict[str, list[str]] = {key: [] for key in keys}
    waiting = dict.fromkeys(sorted(keys), 0)
    for a, b in edges:
        if a in keys and b in keys:
            after[a].append(b)
            waiting[b] += 1
    level = dict.fromkeys(keys, 0)
    ready = [key for key, count in waiting.items() if count == 0]
    for key in ready:
        for other in after[key]:
            level[other] = max(level[other], level[key] + 1)
            waiting[other] -= 1
            if waiting[other] == 0:
                ready.append(other)
    return level


def _pull_sources(boxes: Boxes, rank: dict[str, int]) -> None:
    """What needs nothing stands just above the first box that reads it, or beside its layer."""
    fed = {b for _, b in boxes.edges}
    of_layer: dict[str, int] = {}
    for box in boxes.boxes:
        for layer in box.layers if box.key in rank else ():
            of_layer[layer] = max(rank[box.key], of_layer.get(layer, 0))
    for box in boxes.boxes:
        if box.key in rank and box.key not in fed:
            readers = [rank[b] for a, b in boxes.edges if a == box.key and b in rank]
            own = [of_layer[layer] for layer in box.layers]
            rank[box.key] = max(0, min(readers) - 1) if readers else max(own, default=0)


# -- one lane -------------------------------------------------------------------------------------


@dataclass
class _Lane:
    """The boxes of one way: `x` are the middles of boxes and bends, `order` their rows."""

    keys: Sequence[str]
    all_rows: Mapping[str, int]
    all_edges: Iterable[tuple[str, str]]
    x: dict[str, float] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    order: dict[int, list[str]] = field(default_factory=dict)
    bends: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    above: dict[str, list[str]] = field(default_factory=dict)
    below: dict[str, list[str]] = field(default_factory=dict)

    def run(self) -> None:
        """Order the rows, then give every member its place."""
        self._enter()
        numbers = sorted(self.order)
        for sweep in range(_SWEEPS):
            for number in numbers if sweep % 2 == 0 else reversed(numbers):
                self._sort(number, self.above if sweep % 2 == 0 else self.below)
        for number in numbers:
            self._spread(number, {})
        for sweep in range(_SWEEPS):
            for number in numbers if sweep % 2 == 0 else reversed(numbers):
                neighbours = self.above if sweep % 2 == 0 else self.below
                self._spread(number, neighbours)

    @property
    def left(self) -> float:
        """Where the lane begins."""
        return min((self.x[k] - self._width(k) / 2 for k in self.x), default=0.0)

    @property
    def right(self) -> float:
        """Where it ends."""
        return max((self.x[k] + self._width(k) / 2 for k in self.x), default=0.0)

    def _enter(self) -> None:
        for key in self.keys:
            self._add(key, self.all_rows[key])
        for a, b in self.all_edges:
            if a not in self.rows or b not in self.rows or self.rows[a] == self.rows[b]:
                continue
            step = 1 if self.rows[b] > self.rows[a] else -1
            names = [f"{a}>{b}:{r}" for r in range(self.rows[a] + step, self.rows[b], step)]
            for place, name in enumerate(names, 1):
                self._add(name, self.rows[a] + step * place)
            self.bends[a, b] = names
            chain = [a, *names, b]
            for first, second in pairwise(chain):
                upper, lower = (first, second) if step > 0 else (second, first)
                self.below[upper].append(lower)
                self.above[lower].append(upper)

    def _add(self, name: str, row: int) -> None:
        self.rows[name] = row
        self.order.setdefault(row, []).append(name)
        self.above[name] = []
        self.below[name] = []

    def _sort(self, number: int, neighbours: Mapping[str, list[str]]) -> None:
        position = {name: i for row in self.order.values() for i, name in enumerate(row)}
        size = {name: len(row) for row in self.order.values() for name in row}

        def weight(name: str) -> float:
            near = neighbours[name] or [name]
            return sum((position[n] + 0.5) / size[n] for n in near) / len(near)

        self.order[number].sort(key=weight)

    def _width(self, name: str) -> float:
        return WIDTH if name in self.all_rows else _BEND

    def _spread(self, number: int, neighbours: Mapping[str, list[str]]) -> None:
        """Move a row's members to the middle of their neighbours, as far as there is room."""
        row = self.order[number]
        offsets, run = [], 0.0
        for before, name in zip([None, *row], row, strict=False):
            if before is not None:
                run += (self._width(before) + self._width(name)) / 2 + GAP
            offsets.append(run)
        wished = []
        for name, offset in zip(row, offsets, strict=True):
            near = [self.x[n] for n in neighbours.get(name, ()) if n in self.x]
            start = self.x.get(name, offset - run / 2)
            wished.append((sum(near) / len(near) if near else start) - offset)
        for name, base, offset in zip(row, _never_falling(wished), offsets, strict=True):
            self.x[name] = base + offset


def _never_falling(wished: Sequence[float]) -> list[float]:
    """The numbers that never fall and are nearest to the wished ones, by least squares."""
    blocks: list[tuple[float, int]] = []
    for value in wished:
        blocks.append((value, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, n), (b, m) = blocks[-2:]
            blocks[-2:] = [((a * n + b * m) / (n + m), n + m)]
    return [mean for mean, count in blocks for _ in range(count)]
