"""Offsets: put blocks that live for known spans of steps into as few bytes as possible.

This is dynamic storage allocation with all requests known beforehand. Blocks are placed one by one
at the lowest offset where nothing that lives at the same time lies; only the order of placing
matters, so several orders are tried, and the best is improved by moving single blocks forward, most
often one that sticks out highest. The moves are drawn from a fixed seed: equal nets, equal plans.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from graphc.plan.liveness import bound_of_order

ALIGNMENT = 64
# How often the best order is changed at most, and how many blocks are placed in all that.
MOST_ROUNDS = 400
PLACINGS = 12_000


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
    best_order = list(range(len(blocks)))
    best, best_size = problem.place(best_order)
    for key in _ORDERS:
        if best_size <= goal:
            break
        order = sorted(range(len(blocks)), key=lambda i: (*key(blocks[i]), i))
        offsets, size = problem.place(order)
        if size < best_size:
            best, best_size, best_order = offsets, size, order
    order, offsets, size = best_order, best, best_size
    dice = random.Random(0)
    for _ in range(min(MOST_ROUNDS, PLACINGS // len(blocks))):
        if best_size <= goal:
            break
        tried = _moved(order, dice, problem, offsets, size)
        new_offsets, new_size = problem.place(tried)
        if new_size <= size:  # moves that change nothing lead on to others
            order, offsets, size = tried, new_offsets, new_size
        if size < best_size:
            best, best_size = offsets, size
    return [int(offset) for offset in best], int(best_size)


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


def _moved(
    order: list[int], dice: random.Random, problem: _Problem, offsets: np.ndarray, size: int
) -> list[int]:
    """The order with one block, drawn from the highest or from all, placed earlier."""
    reach = offsets + problem.sizes
    top = [place for place, i in enumerate(order) if reach[i] == size]
    place = dice.choice(top) if dice.random() < 0.5 else dice.randrange(len(order))
    target = dice.randrange(place + 1)
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
        placed = np.zeros(len(order), bool)
        size = 0
        for i in order:
            others = np.flatnonzero(placed & self.meets[i] & (self.sizes > 0))
            offset = self.lowest_gap(others, offsets, int(self.sizes[i]))
            offsets[i] = offset
            placed[i] = True
            size = max(size, offset + int(self.sizes[i]))
        return offsets, size

    def lowest_gap(self, others: np.ndarray, offsets: np.ndarray, size: int) -> int:
        if not len(others) or not size:
            return 0
        others = others[np.argsort(offsets[others], kind="stable")]
        starts = offsets[others]
        # How far everything up to each neighbour reaches: gaps lie between that and the next start.
        reach = np.maximum.accumulate(starts + self.sizes[others])
        if starts[0] >= size:
            return 0
        fits = np.flatnonzero(starts[1:] - reach[:-1] >= size)
        return int(reach[fits[0]] if len(fits) else reach[-1])
