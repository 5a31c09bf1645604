"""Offsets: put blocks that live for known spans of steps into as few bytes as possible.

This is dynamic storage allocation with all requests known beforehand. Blocks are placed one by one
at the lowest offset where nothing that lives at the same time lies; only the order of placing
matters, so several orders are tried, and the best is improved by moving the blocks that stick out
highest to the front.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from graphc.plan.liveness import bound_of_order

ALIGNMENT = 64
# How many times the best order is improved; each round places every block once.
ROUNDS = 24


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
    for _ in range(ROUNDS):
        if best_size <= goal:
            break
        order = _raised(order, problem.sizes, offsets, size)
        offsets, size = problem.place(order)
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


def _raised(order: list[int], sizes: np.ndarray, offsets: np.ndarray, size: int) -> list[int]:
    """The order with the blocks that reach the top placed first."""
    top = {i for i in order if offsets[i] + sizes[i] == size}
    return [i for i in order if i in top] + [i for i in order if i not in top]


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
