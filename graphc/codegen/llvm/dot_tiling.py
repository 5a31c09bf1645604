"""How a product of operands that lie along the fold runs in dots: tiles, panels, chunks.

Where only one operand lies so and the other is short, the short one is copied first.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from graphc.codegen.llvm.lane_sums import most_halvings, vectors_left
from graphc.codegen.llvm.product import Factor, Product
from graphc.codegen.llvm.target import ITEM_BYTES, Target
from graphc.kernel.lang import Axis

MOST_TILE = 12
MOST_GROUP = 32
MOST_PACKED = 24  # rows of a panel that is packed
MANY_COLUMNS = 4  # of a tile: each vector of a row that it loads has so many uses
FEWEST_SHARES = 32
# A share packs its rows: with fewer tiles of columns that costs more than shares for all threads
# bring; but this many shares there are.
LEAST_GROUP, LEAST_SHARES = 8, 4
SCRATCH_BYTES = 96 << 10
HALVINGS = 2  # of the lanes of sums that wait: another one costs what it saves
NEAR_CACHES = 2  # so many times the second-level cache, and a matrix is far
MOST_PARTIAL = 4  # sums at once that hide how long a multiply-add takes
PACKED_PART = 0.38  # of the first-level cache, for packed rows; columns pass through the rest
COPIED_BYTES = 32 << 10  # of a b that is copied
# What loads add to a step: lines of the smaller operand are in the first-level cache.
LINE, FAR_LINE = 0.5, 1.0


@dataclass
class DotTiling:
    """rows, columns: points in a tile of `row` (only in a) and `column` (only in b), if there are.

    along: the contiguous fold axis. over: the other folds, outermost first. outer: the other `each`
    axes. panel, group: rows and tiles of columns that one share covers. chunk: all row tiles of a
    panel pass over so many points of `along`, which stay in the first-level cache, before any goes
    on; 0: each tile's sum is done at once. halvings: so often the lanes of sums are halved before
    these wait in memory for the next chunk. partial: sums of each pair of points, to which vectors
    along the fold are added by turns. by_rows: a thread has panels of its own.
    """

    a: Factor
    b: Factor
    along: Axis
    over: list[Axis]
    outer: list[Axis]
    row: Axis | None
    column: Axis | None
    lanes: int
    source: Factor | None = None
    rows: int = 1
    columns: int = 1
    panel: int = 1
    group: int = 1
    chunk: int = 0
    halvings: int = 0
    partial: int = 1
    by_rows: bool = False
    cost: float = 0.0


def choose_dot(product: Product, target: Target) -> DotTiling | None:
    """The cheapest tile of dot products; None where the operands do not lie that way."""
    if product.guards:
        return None
    best: DotTiling | None = None
    lanes = target.lanes(product.left.buffer.dtype)
    small, large = sorted((product.left, product.right), key=lambda f: _points(product, f))
    for a, b in ((small, large), (large, small)):
        along = [x for x in product.over if a.strides.get(x, 0) == b.strides.get(x, 0) == 1]
        if not along or product.extents[along[0]] < lanes:
            return None
        over = [x for x in product.over if x != along[0]]
        over.sort(key=lambda axis: -abs(b.strides.get(axis, 0)))
        rows = _only_in(product, a, b) or [None]
        columns = _only_in(product, b, a) or [None]
        for row, column in itertools.product(rows, columns):
            outer = [axis for axis in product.each if axis not in (row, column)]
            tiling = DotTiling(a, b, along[0], over, outer, row, column, lanes)
            _choose_sizes(tiling, product, target)
            if best is None or tiling.cost < best.cost:
                best = tiling
    return best


def choose_copied_dot(product: Product, target: Target) -> DotTiling | None:
    """The same where few columns of b do not lie along the fold: they are copied first, once."""
    best: DotTiling | None = None
    lanes = target.lanes(product.left.buffer.dtype)
    guarded = {axis for guard in product.guards for axis in guard.terms}
    for a, b in ((product.left, product.right), (product.right, product.left)):
        along = [x for x in product.over if a.strides.get(x, 0) == 1 and x not in guarded]
        size = product.size([x for x in (*product.each, *product.over) if x in b.strides])
        short = size * ITEM_BYTES[b.buffer.dtype] <= COPIED_BYTES
        if not along or product.extents[along[0]] < lanes or b.guarded or not short:
            continue
        over = [x for x in product.over if x != along[0]]
        for row, column in itertools.product(_only_in(product, a, b), _only_in(product, b, a)):
            outer = [axis for axis in product.each if axis not in (row, column)]
            if {row, column} & guarded or any(axis in b.strides for axis in outer):
                continue
            copied = _copied(product, b, [x for x in (column, *over, along[0]) if x])
            tiling = DotTiling(a, copied, along[0], over, outer, row, column, lanes, b)
            _choose_sizes(tiling, product, target)
            if best is None or tiling.cost < best.cost:
                best = tiling
    return None if product.stepped else best


def _points(product: Product, factor: Factor) -> int:
    """How many elements the product reads of a factor."""
    return product.size([x for x in (*product.each, *product.over) if x in factor.strides])


def _copied(product: Product, b: Factor, order: list[Axis]) -> Factor:
    """b, dense in that order."""
    strides: dict[Axis, int] = {}
    step = 1
    for axis in reversed(order):
        strides[axis] = step
        step *= product.extents[axis]
    return replace(b, strides=strides, constant=0)


def _only_in(product: Product, factor: Factor, other: Factor) -> list[Axis | None]:
    return [x for x in product.each if x in factor.strides and x not in other.strides]


def _choose_sizes(tiling: DotTiling, product: Product, target: Target) -> None:
    all_rows = product.extents[tiling.row] if tiling.row else 1
    all_columns = product.extents[tiling.column] if tiling.column else 1
    along = product.extents[tiling.along]
    steps = product.size(product.over) // along * -(-along // tiling.lanes)
    lines = LINE, FAR_LINE
    if _points(product, tiling.a) > _points(product, tiling.b):
        lines = FAR_LINE, LINE
    found = []
    for rows in range(1, min(all_rows, MOST_TILE) + 1):
        for columns in range(1, min(all_columns, MOST_TILE) + 1):
            if rows * columns + min(rows, columns) + 1 > target.registers:
                break
            # Lines of b from far away, once for all rows; then instructions, two a cycle.
            cost = 0.0
            for r, row_tiles in _parts(all_rows, rows):
                for c, column_tiles in _parts(all_columns, columns):
                    busy = max(r * c, r + c, 8) + lines[0] * r + lines[1] * c
                    cost += row_tiles * column_tiles * (steps * busy + 10 * r * c + 20)
            found.append((cost, all_rows % rows > 0, -rows, columns))
    cost, _, rows, tiling.columns = min(found)
    tiling.rows = -rows
    tiling.cost = cost * product.size(tiling.outer)
    if all_rows == 1 and tiling.source is None:
        _read_row_by_row(tiling, along // tiling.lanes, all_columns, target)
    _choose_chunks(tiling, product, target)


def _read_row_by_row(tiling: DotTiling, vectors: int, all_columns: int, target: Target) -> None:
    """Let a matrix that is read once be read as it lies, or if it is near, in many streams.

    One sum would wait for itself: several partial ones keep as many additions under way. Of what is
    far, lines are asked for in many pages, so that the order costs no stream.
    """
    size = vectors * target.vector_bytes * all_columns
    if 1 < target.streams <= all_columns and size <= NEAR_CACHES * target.l2_bytes:
        tiling.columns = target.streams
        return
    while 2 * tiling.partial <= min(MOST_PARTIAL, vectors):
        tiling.partial *= 2
    tiling.columns = min(tiling.columns, MOST_PARTIAL // tiling.partial, all_columns)


def _choose_chunks(tiling: DotTiling, product: Product, target: Target) -> None:
    """Decide what a share covers, and whether its sums wait in memory between chunks."""
    item = ITEM_BYTES[tiling.a.buffer.dtype]
    all_rows = product.extents[tiling.row] if tiling.row else 1
    tiles = -(-all_rows // tiling.rows)
    chunk = _chunk(tiling, target, min(all_rows, MOST_PACKED), item)
    sweep = all_rows * product.extents[tiling.along] * item
    if tiling.source is not None:  # the copy of b has the place where sums would wait
        # What lies beside these results is shared by its rows: lines then are one thread's.
        tiling.panel, tiling.by_rows = tiling.rows, True
        return
    # A tile of few columns reads a row of the second-level cache at each step or two.
    stays = sweep <= 2 * target.l1_bytes or (tiles == 1 and tiling.columns >= MANY_COLUMNS)
    if all_rows == 1 or tiling.over or stays:
        row_bytes = product.size(product.over) * item
        most = target.l2_bytes * 5 // 8 // row_bytes // tiling.rows
        tiling.panel = min(tiles, max(most, 4)) * tiling.rows
        return
    # Tiles of columns pass over a chunk of the rows before it leaves the caches.
    tiling.chunk = chunk
    all_columns = product.extents[tiling.column] if tiling.column else 1
    column_tiles = all_columns // tiling.columns * product.size(tiling.outer)
    least = max(1, min(LEAST_GROUP, column_tiles // LEAST_SHARES))
    tiling.group = max(least, min(MOST_GROUP, column_tiles // FEWEST_SHARES))
    tiling.halvings = min(HALVINGS, most_halvings(tiling.lanes))
    waiting = vectors_left(tiling.rows * tiling.columns, tiling.halvings)
    sums = tiling.group * waiting * tiling.lanes * item
    most = min(SCRATCH_BYTES // sums, MOST_PACKED // tiling.rows)
    tiling.panel = min(tiles, max(most, 1)) * tiling.rows


def _chunk(tiling: DotTiling, target: Target, rows: int, item: int) -> int:
    """As many points of `along` as let the packed rows and two tiles of columns share a cache."""
    packed = int(target.l1_bytes * PACKED_PART) // rows
    chunk = min(packed, target.l1_bytes // (rows + 2 * tiling.columns)) // item
    return chunk - chunk % tiling.lanes


def _parts(extent: int, size: int) -> list[tuple[int, int]]:
    """(size, count) of full parts and of what is left over."""
    return [(s, n) for s, n in ((size, extent // size), (extent % size, 1)) if s and n]
