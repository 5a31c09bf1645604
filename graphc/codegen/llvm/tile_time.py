"""The modelled time of one register tile: what a core is busiest with, term by term.

Of the multiply-adds, the loads and the lines from the caches that one term takes,

    acc[row, vector] += a[row, k] * b[k, vector]   for all rows and vectors of the tile

the slowest counts, as a core does them side by side. Rows of a that share a set of the first-level
cache push each other out.
"""

from __future__ import annotations

import math

from graphc.codegen.llvm.product import Product
from graphc.codegen.llvm.target import ITEM_BYTES, Target
from graphc.codegen.llvm.tiling import Tiling, overlapping

WAY_BYTES = 4096  # addresses so far apart share a set of the first-level cache
LATENCY = 8.0  # slots until a sum can take its next term: so many sums keep a core busy
DELAY = 0.5  # slots more where registers are too few for sums that make up for any delay
FEW_WAYS = 7  # places for those that do, of 8 at least: two in three where there are more
SLOW_STORE = 50.0  # slots for an element that goes to a line for which a cache makes room
WHOLE_SUM = 1024  # terms at most of a sum that no chunks interrupt before it is stored
CHUNK = 256  # terms of a chunk, where loops can be cut so
# The same, where loads fall behind and a step reads rows that lie side by side, lines of its own:
# a chunk's lines of both operands then stay in the first-level cache.
CHUNK_BESIDE = 128
BESIDE = 0.9  # of the time that a load takes, where rows lie so: they are in fewer lines


class TileTime:
    """Modelled time of one tile, in slots.

    sets, ways: of the first-level cache, as far as rows of a reach them. met: points of `deep`
    that share a set. latency: of a step, at least. load_slots: of a load. chunk: terms of a chunk,
    at most. piece: slots for a row of a matrix that leaves the caches, of which a tile stores but a
    piece. along: whether vectors lie along rows. passing: bytes of b that pass by before a line of
    it is read again, where all of it does.
    """

    def __init__(
        self, product: Product, target: Target, tiling: Tiling, deep: int, by_rows: bool = False
    ):
        self.product, self.target, self.tiling, self.deep = product, target, tiling, deep
        self.steps = product.size(product.over)
        item = ITEM_BYTES[tiling.a.buffer.dtype]
        self.passing = self.steps * product.extents[tiling.vector] * item if by_rows else 0
        row_step, deep_step = (
            item * tiling.a.strides.get(axis, 0) if axis else 0
            for axis in (tiling.row, tiling.deep)
        )
        self.sets = WAY_BYTES // math.gcd(row_step, WAY_BYTES)
        self.met = deep if deep_step % WAY_BYTES == 0 else 1
        self.ways = max(target.l1_bytes // WAY_BYTES, 8)
        few = target.registers < 32 and not tiling.elementwise
        self.latency = LATENCY + DELAY * few
        matrix = _is_matrix(product)
        beside = rows_beside(product, tiling)
        self.load_slots = max(1.0, BESIDE * target.load_slots) if beside else target.load_slots
        self.chunk = most_terms(product, tiling, target)
        stride = max(product.store_strides(tiling.vector), key=abs)
        self.store = 2.0 * len(product.store_nodes())
        leaves = matrix and _leaves_cache(product, target)
        self.piece, self.along = target.stored_piece if leaves else 0.0, stride == 1
        if not self.along:
            slow = 2.0 if stride * item % WAY_BYTES else SLOW_STORE
            self.store = slow * tiling.lanes * len(product.store_nodes())

    def tile(self, rows: int, vectors: int) -> float:
        """That of all steps of a tile, its beginning and its stores."""
        sums = rows * vectors
        pieces = rows if self.along else vectors * self.tiling.lanes
        stores = sums * self.store + pieces * self.piece
        return self.steps * self.step(rows, vectors) + 30 + 3 * sums + stores

    def step(self, rows: int, vectors: int) -> float:
        """That of one term of all its sums: the busiest of what a core does at once."""
        tiling, vector_bytes = self.tiling, self.target.vector_bytes
        passing = max(self.passing, min(self.steps, self.chunk) * vectors * vector_bytes)
        near = passing <= self.target.l1_bytes
        lines = vectors * max(vector_bytes, 16) / (32 if near else 16)
        pieces = 2 * tiling.lanes // tiling.b.spread.size if tiling.b.spread else 1
        loads = self._loads(rows, vectors)
        loads = (loads + vectors * pieces) * self.load_slots
        busy = max(rows * vectors, self.latency, loads + 2, lines)
        in_one_set = -(-rows // self.deep // self.sets) * self.met
        few = max(FEW_WAYS, self.ways * 2 // 3)
        return busy * (2.0 if in_one_set > self.ways else 1.35 if in_one_set > few else 1.0)

    def _loads(self, rows: int, vectors: int) -> float:
        tiling = self.tiling
        loads: float = rows * (vectors if tiling.elementwise else 1)
        if tiling.sliding:
            loads = loads / rows * overlapping(tiling, self.product, rows)
            loads /= self.product.extents[tiling.sliding]
        return loads * (3 if tiling.a.spread else 1)


def rows_beside(product: Product, tiling: Tiling) -> bool:
    """Whether the numbers that a step of a long sum reads of a lie side by side."""
    steps = [tiling.a.strides.get(axis, 0) if axis else 0 for axis in (tiling.row, tiling.deep)]
    return 1 in steps and not _is_matrix(product)


def most_terms(product: Product, tiling: Tiling, target: Target) -> int:
    """Of a chunk, where loops can be cut so."""
    falls_behind = target.load_slots > 1 and not tiling.packing
    return CHUNK_BESIDE if falls_behind and rows_beside(product, tiling) else CHUNK


def _is_matrix(product: Product) -> bool:
    """Whether rows, columns and one short sum are all there is."""
    few = product.size(product.over) <= WHOLE_SUM
    return len(product.each) == 2 and len(product.over) == 1 and few


def _leaves_cache(product: Product, target: Target) -> bool:
    """Whether a result is larger than half of the second-level cache."""
    buffer = product.store_nodes()[0].address.buffer
    return math.prod(buffer.shape) * ITEM_BYTES[buffer.dtype] > target.l2_bytes // 2
