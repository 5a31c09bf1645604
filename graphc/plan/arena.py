"""Offsets: put blocks that live for known spans of steps into as few bytes as possible.

This is dynamic storage allocation with all requests known beforehand. Blocks are placed one by one
at the lowest offset where nothing that lives at the same time lies; only the order of placing
matters, so several orders are tried, and the best are improved by moving single blocks forward,
most often one that sticks out highest. The moves are drawn from a fixed seed: equal nets, equal
plans.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from graphc.plan.liveness import bound_of_order

ALIGNMENT = 64
# How many of the orders are improved; how often they are changed at most, and how many blocks are
# placed in all that.
STARTS = 3
MOST_ROUNDS = 450
PLACINGS = 20_000


@dataclass(frozen=True)
class Block:
    """Bytes that must stay from step `first` to step `last`, both included."""

    bytes: int
    first: int
    last: int


def aligned(size: int) -> int:
    """Rounded up to the alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def pack(blocks: Sequence[Block]) -> tuple[list[int], int]:
    """Offsets of the blocks, multiples of 64, and the size of the arena."""
    if not blocks:
        return [], 0
    problem = _Problem(blocks)
    steps = max(block.last for block in blocks) + 1
    goal = bound_of_order([(aligned(b.bytes), b.first, b.last) for b in blocks], steps)
    found = []
    for key in _ORDERS:
        order = sorted(range(len(blocks)), key=lambda i: (*key(blocks[i]), i))
        found.append(_Placing(order, *problem.place(order)))
        if found[-1].size <= goal:
            break
    found.sort(key=lambda placing: placing.size)
    best = found[0]
    rounds = min(MOST_ROUNDS, PLACINGS // len(blocks)) // STARTS
    for start in found[:STARTS]:
        if best.size > goal:
            better = _improved(problem, start, rounds, goal)
            best = min(best, better, key=lambda placing: placing.size)
    return [int(offset) for offset in best.offsets], best.size


def stacked(blocks: Sequence[Block]) -> tuple[list[int], int]:
    """Offsets where no two blocks share a byte."""
    offsets: list[int] = []
    size = 0
    for block in blocks:
        offsets.append(size)
        size += aligned(block.bytes)
    return offsets, size


_ORDERS: tuple[Callable[[Block], tuple[int, ...]], ...] = (
    lambda b: (-b.bytes, b.first),
    lambda b: (-b.bytes * (b.last - b.first + 1), b.first),
    lambda b: (-(b.last - b.first), -b.bytes),
    lambda b: (b.first, -b.bytes),
    lambda b: (-b.last, -b.bytes),
    lambda b: (b.first, -b.last, -b.bytes),
)


@dataclass(frozen=True)
class _Placing:
    order: list[int]
    offsets: np.ndarray
    size: int


def _improved(problem: _Problem, start: _Placing, rounds: int, goal: int) -> _Placing:
    """Local search: moves that change nothing are taken too, since they lead on to others."""
    dice = random.Random(0)
    now = start
    for _ in range(rounds):
        if now.size <= goal:
            break
        order = _moved(now, dice, problem.sizes)
        tried = _Placing(order, *problem.place(order))
        if tried.size <= now.size:
            now = tried
    return now


def _moved(placing: _Placing, dice: random.Random, sizes: np.ndarray) -> list[int]:
    """The order with one block, drawn from the highest or from all, placed earlier."""
    order = placing.order
    reach = placing.offsets + sizes
    top = [place for place, i in enumerate(order) if reach[i] == placing.size]
    place = dice.choice(top) if dice.random() < 0.5 else dice.randrange(len(order))
    target = 0 if dice.random() < 0.3 else dice.randrange(place + 1)
    changed = order[:place] + order[place + 1 :]
    changed.insert(target, order[place])
    return changed


class _Problem:
    def __init__(self, blocks: Sequence[Block]):
        self.sizes = np.array([aligned(block.bytes) for block in blocks], np.int64)
        first = np.array([block.first for block in blocks])
        last = np.array([block.last for block in blocks])
        self.meets = (first[:, None] <= last[None, :]) & (first[None, :] <= last[:, None])

    def place(self, order: Sequence[int]) -> tuple[np.ndarray, int]:
        """Lowest offsets in the given order of placing."""
        offsets = np.zeros(len(order), np.int64)
        # What is placed, by offset; of equal offsets the latest comes last.
        placed = np.zeros(len(order), np.int64)
        starts = np.zeros(len(order), np.int64)
        ends = np.zeros(len(order), np.int64)
        count = size = 0
        for i in order:
            need = int(self.sizes[i])
            if not need:
                continue
            near = self.meets[i][placed[:count]]
            offset = _lowest_gap(starts[:count][near], ends[:count][near], need)
            at = int(starts[:count].searchsorted(offset, "right"))
            for row, entry in ((placed, i), (starts, offset), (ends, offset + need)):
                row[at + 1 : count + 1] = row[at:count]
                row[at] = entry
            count += 1
            offsets[i] = offset
            size = max(size, offset + need)
        return offsets, size


def _lowest_gap(starts: np.ndarray, ends: np.ndarray, size: int) -> int:
    """The lowest offset with so many free bytes between what lies there, sorted by its start."""
    if not len(starts) or starts[0] >= size:
        return 0
    # How far everything up to each neighbour reaches: gaps lie between that and the next start.
    reach = np.maximum.accumulate(ends)
    fits = (starts[1:] - reach[:-1] >= size).nonzero()[0]
    return int(reach[fits[0]] if len(fits) else reach[-1])
