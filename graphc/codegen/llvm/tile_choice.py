"""Which tiling a product gets: the cheapest of all that the registers hold, by a count of the
instructions, what is wasted in partial tiles included.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import copy

from graphc.codegen.llvm.operand import LINE_BYTES
from graphc.codegen.llvm.panel_shape import (
    FEWEST_SHARES,
    FEWEST_TILES,
    LEAST_SCRATCH,
    arrange_shares,
    even_strip,
    is_read_once,
    neighbours,
    scratch_bytes,
)
from graphc.codegen.llvm.product import Factor, Interval, Product
from graphc.codegen.llvm.target import ITEM_BYTES, PAGE_BYTES, Target
from graphc.codegen.llvm.tile_time import TileTime, most_terms
from graphc.codegen.llvm.tiling import Tiling, parts, row_groups, row_parts
from graphc.kernel.lang import Axis

LONGEST_SUM = 1200  # a sum of so many terms is added up in one register; longer ones in chunks
MOST_VECTORS = 8
MOST_TAPS = 16  # of windows that overlap, all written out
MOST_PIECES = 40  # inner loops that one product may become by peeling its guards
DEEPEST = 8
NARROWEST = 16  # bytes of the smallest vector registers
STREAMED_SUM = 128  # terms of a sum at most, where its result goes past the caches
NARROW = 0.25  # of the time more for pieces of one vector of a row, less for longer ones
FAR_NUMBERS = 0.25  # of the time more where each number of a matrix from memory is used but once
PASS = 1.0  # slots for a vector of a matrix from memory that one more tile of few rows reads
NEAR_LOAD = 0.25  # slots for each load of such a tile, which the prefetches crowd
APART_BYTES = 512  # from one vector of b to the next, and it may be copied
GUARDED_APART = 0.03  # of it where vectors of b lie apart, and guards let no copy be made of them
# Of the time more where blocks, too few to be passed over, each read a again, but fewer would not.
FEW_BLOCKS = 0.02
SHORT_SUM = 16  # terms of a sum at most, where storing the results takes the most time
SHARED_PART = 0.25  # of the cache that cores share, for a result that waits there for its reader
WAITING_SUM = 2  # terms of a sum at most, where multiplications hide no store past the caches
RESULT_CACHES = 8  # so many times the second-level cache, and no core's cache holds a result
UNREAD_CACHES = 0.5  # the same of a result that nothing reads, where memory takes stores faster
STREAMED_ROWS = 8  # lines of a result that are written side by side


def choose_tiling(product: Product, target: Target) -> Tiling | None:
    """The cheapest tiling, or None where the product has no form that tiles cover."""
    best: Tiling | None = None
    for tiling in candidates(product, target):
        if best is None or tiling.cost < best.cost:
            best = tiling
    if best is None:
        return None
    if best.row is None:  # blocks are all there is to share
        vectors = -(-product.extents[best.vector] // best.lanes)
        best.vectors = even_strip(vectors, best.vectors)
    _arrange_folds(best, product, target)
    best.groups = row_groups(best, product)
    if sum(max(1, len(group.pieces)) for group in best.groups) > MOST_PIECES:
        return None
    by_rows = _goes_by_rows(product, best, target)
    best.held = _why_held(best, product, target, by_rows)
    best.by_rows = by_rows and (best.streamed or _is_outer_product(product, best))
    by_groups = best.chunked and neighbours(best, product, 0.5)  # chunks pass over some of these
    apart = not (best.packing or by_groups) and _lies_apart(best, product, target)
    arrange_shares(best, product, target, apart)
    best.turned = _stores_turned(best, product)
    best.lines_inside = _stores_lines_inside(best, product)
    lines = best.lines * product.size(best.whole_lines)
    if apart and best.panel_rows // best.rows * lines >= FEWEST_TILES:
        best.packing = "copy"
    return best


def _why_held(tiling: Tiling, product: Product, target: Target, by_rows: bool) -> str:
    """Why results do not go past the caches, in a word of `Tiling.held`; empty where they do."""
    if _result_bytes(product) < _least_streamed(product, target):
        return "small"
    if product.size(product.over) > STREAMED_SUM:
        return "long sums"
    if tiling.chunked:
        return "chunks"
    if not _in_whole_lines(tiling, product, by_rows):
        return "parts of lines"
    return "shared cache" if _waits_in_shared_cache(product, target) else ""


def _stores_turned(tiling: Tiling, product: Product) -> bool:
    """Whether what is stored lies along the rows of tiles, whose sums wait in memory.

    Stored from vectors, every element would go to a line of its own.
    """
    if not tiling.chunked or tiling.row is None or tiling.deep is not None or tiling.lanes < 4:
        return False
    rows, vectors = (product.store_strides(axis) for axis in (tiling.row, tiling.vector))
    return set(rows) == {1} and 1 not in vectors


def _stores_lines_inside(tiling: Tiling, product: Product) -> bool:
    """Whether all lines of a panel lie nearer to each other in the results than its rows do."""
    lines = [axis for axis in (tiling.line, *tiling.whole_lines) if axis is not None]
    if not lines or tiling.row is None:
        return False
    far = max(abs(step) for axis in lines for step in product.store_strides(axis))
    return far < min(map(abs, product.store_strides(tiling.row)))


def _in_whole_lines(tiling: Tiling, product: Product, by_rows: bool) -> bool:
    """Whether results can go past the caches: lines that are written whole, and only written.

    They need not be read first then. A tile stores whole lines, or tiles that follow each other do,
    where they go `by_rows`. The weight gradient of an inner product of a small batch is stored so.
    """
    store, *others = product.store_nodes()
    address = store.address
    item = ITEM_BYTES[address.buffer.dtype]
    if others or store.mode != "set" or address.parts or address.buffer.name in store.value.reads:
        return False
    if tiling.lanes == 1 or address.terms.get(tiling.vector) != 1:
        return False
    steps = [s for axis, s in address.terms.items() if axis != tiling.vector]
    vector_bytes = tiling.lanes * ITEM_BYTES[tiling.a.buffer.dtype]
    if any(step * item % vector_bytes for step in (*steps, address.constant)):
        return False
    width = product.extents[tiling.vector] * item if by_rows else tiling.vectors * vector_bytes
    return width % LINE_BYTES == 0


def _goes_by_rows(product: Product, tiling: Tiling, target: Target) -> bool:
    """Whether a result is written a few whole rows at a time: a large one, or one of short sums.

    All of b has to stay in the second-level cache, as every few rows pass over it; and all rows
    need tiles of one kind, which guards of padding prevent.
    """
    b = tiling.b
    size = product.size([x for x in (*product.each, *product.over) if x in b.strides])
    stays = size * ITEM_BYTES[b.buffer.dtype] <= target.l2_bytes * 3 // 4
    if not stays or tiling.fixed:
        return False
    return _fills_memory(product, target) or _is_outer_product(product, tiling)


def _is_outer_product(product: Product, tiling: Tiling) -> bool:
    """Whether a matrix has next to nothing summed up in it: only the order of stores counts.

    Written by columns, rows a power of two apart would share few sets of the caches.
    """
    matrix = len(product.each) == 2 and tiling.row is not None and not product.guards
    along = set(product.store_strides(tiling.vector)) == {1} and not tiling.packing
    return matrix and along and product.size(product.over) <= SHORT_SUM


def _fills_memory(product: Product, target: Target) -> bool:
    """Whether a few multiplications make each element of a matrix that no core's cache holds."""
    few = product.size(product.over) <= STREAMED_SUM
    return few and _result_bytes(product) >= _least_streamed(product, target)


def _least_streamed(product: Product, target: Target) -> float:
    """Bytes of a result that is too large to wait in a cache for its reader."""
    result = product.store_nodes()[0].address.buffer.name
    leaves = result in product.stores.kernel.unread and not target.shared_stores
    return (UNREAD_CACHES if leaves else RESULT_CACHES) * target.l2_bytes


def _waits_in_shared_cache(product: Product, target: Target) -> bool:
    """Whether plain stores, which the shared cache takes faster than memory, are better."""
    if not target.shared_stores:
        return False
    held = _result_bytes(product) <= SHARED_PART * target.l3_bytes
    return held and product.size(product.over) <= WAITING_SUM


def _result_bytes(product: Product) -> int:
    buffer = product.store_nodes()[0].address.buffer
    return math.prod(buffer.shape) * ITEM_BYTES[buffer.dtype]


def _lies_apart(tiling: Tiling, product: Product, target: Target) -> bool:
    """Whether a dense copy of b may pay.

    Its rows fall into few sets of the caches, or a chunk has them in more pages than are at hand.
    """
    if tiling.b.guarded or tiling.b.spread or tiling.elementwise:
        return False
    item = ITEM_BYTES[tiling.b.buffer.dtype]
    block = product.size(product.over) * tiling.vectors * tiling.lanes * item
    step = abs(tiling.b.strides.get(tiling.innermost, 0)) * item if tiling.innermost else 0
    most = target.l2_bytes // 4 if target.near_pages else LEAST_SCRATCH
    if step < APART_BYTES or not (tiling.chunked or block <= most):
        return False
    collides = step % APART_BYTES == 0 and tiling.tied is None
    return collides or _is_in_many_pages(tiling, product, target, step)


def _is_guarded_apart(tiling: Tiling, product: Product, target: Target) -> bool:
    """Whether b would be copied as it lies apart, but has guards."""
    b = tiling.b
    steps = [abs(b.strides[axis]) for axis in product.over if b.strides.get(axis)]
    apart = bool(steps) and min(steps) * ITEM_BYTES[b.buffer.dtype] >= APART_BYTES
    return target.near_pages > 0 and bool(b.guarded) and apart


def _is_in_many_pages(tiling: Tiling, product: Product, target: Target, step: int) -> bool:
    """Whether rows of b that lie `step` bytes apart, those of a chunk, delay their reader.

    The copy has to stay in the second-level cache.
    """
    rows = product.size(tiling.inner)
    if tiling.strip:
        rows = rows // product.extents[tiling.inner[0]] * tiling.strip
    copy = rows * tiling.vectors * tiling.lanes * ITEM_BYTES[tiling.b.buffer.dtype]
    many = target.near_pages > 0 and rows * step > target.near_pages * PAGE_BYTES
    return many and copy <= target.l2_bytes // 2


# -- candidates -------------------------------------------------------------------------------


def candidates(product: Product, target: Target) -> Iterator[Tiling]:
    """All tilings that the registers hold, each with its modelled cost."""
    left, right = product.left, product.right
    spread = [factor.spread.axis for factor in (left, right) if factor.spread]
    for a, b in ((left, right), (right, left)):
        for vector in spread[:1] or product.each:
            if not _depends(b, vector):
                continue
            elementwise = _depends(a, vector)
            rows = all(f.strides.get(vector, 1) == 1 for f in (a, b))
            if elementwise and not rows:
                continue
            lanes = fewest_lanes(product, target, vector)
            packing = "" if b.strides.get(vector, 1) == 1 else "turn"
            if packing and (b.guarded or lanes == 1 or not _turned(product, b)):
                continue
            if any(vector in guard.terms for guard in product.guards):
                continue
            if any(vector == step.each_axis for step in product.stepped.values()):
                continue
            for row, deep in _row_axes(product, a, b, vector):
                fixed = [g for g in product.guards if row in g.terms]
                tied = _tied(product, fixed, row)
                if fixed and (tied is None or tied in product.stepped):
                    continue
                like = Tiling(a, b, vector, lanes, row, deep, 1, 1, tied, fixed, 0.0)
                like.packing, like.elementwise = packing, elementwise
                yield from _sizes(product, target, like)
                like.sliding = _sliding(product, like)
                if like.sliding is not None:
                    yield from _sizes(product, target, like)


def fewest_lanes(product: Product, target: Target, vector: Axis) -> int:
    """Lanes of the narrowest registers that hold all points of a short axis, or of the widest."""
    dtype = product.left.buffer.dtype
    least = min(NARROWEST // ITEM_BYTES[dtype], target.lanes(dtype))
    lanes = target.lanes(dtype)
    while lanes // 2 >= max(product.extents[vector], least):
        lanes //= 2
    return lanes


def _depends(factor: Factor, axis: Axis) -> bool:
    return axis in factor.strides or (factor.spread is not None and factor.spread.axis == axis)


def _turned(product: Product, b: Factor) -> Axis | None:
    """The fold axis along which b lies contiguously, which a transposition makes the vectors'.

    All its points are packed side by side: it cannot be one whose loop skips some.
    """
    found = [axis for axis in product.over if b.strides.get(axis, 0) == 1]
    found = [axis for axis in found if axis not in product.stepped]
    return found[0] if found else None


def _row_axes(
    product: Product, a: Factor, b: Factor, vector: Axis
) -> Iterator[tuple[Axis | None, Axis | None]]:
    held = {step.each_axis for step in product.stepped.values()}  # their values must be known
    free = [x for x in product.each if x != vector and x in a.strides and x not in b.strides]
    free = [x for x in free if x not in held]
    free.sort(key=lambda axis: abs(a.strides[axis]))  # of equal tiles the first is taken
    guarded = {axis for guard in product.guards for axis in guard.terms}
    yield from ((row, None) for row in free)
    for deep in free:
        if product.extents[deep] <= DEEPEST and deep not in guarded:
            yield from ((row, deep) for row in free if row != deep)
    if not free:
        yield None, None


def _tied(product: Product, fixed: list[Interval], row: Axis | None) -> Axis | None:
    """The one fold axis that all guards of the row speak of besides; None if there is no such."""
    others = {axis for guard in fixed for axis in guard.terms if axis != row}
    return others.pop() if len(others) == 1 and others <= set(product.over) else None


def _sliding(product: Product, tiling: Tiling) -> Axis | None:
    """The fold axis along which windows of neighbouring rows meet the same elements of a."""
    narrow = product.extents[tiling.vector] <= tiling.lanes  # a load for each multiplication
    if not (tiling.elementwise or narrow) or tiling.row is None or tiling.deep is not None:
        return None
    if tiling.packing:  # the axis that is transposed has to be the innermost, as this one has
        return None
    clips = {axis for g in product.guards if g not in tiling.fixed for axis in g.terms}
    step = tiling.a.strides[tiling.row]
    for axis in product.over:
        stride = tiling.a.strides.get(axis, 0)
        if axis in clips or axis in product.stepped or not stride:
            continue
        if tiling.fixed and axis != tiling.tied:
            continue
        if abs(step) // math.gcd(step, stride) < product.extents[axis] <= MOST_TAPS:
            return axis
    return None


def _sizes(product: Product, target: Target, like: Tiling) -> Iterator[Tiling]:
    extent = product.extents[like.row] if like.row else 1
    deep = product.extents[like.deep] if like.deep else 1
    whole = -(-product.extents[like.vector] // like.lanes)
    by_rows = _goes_by_rows(product, like, target)
    by_rows = by_rows and (_in_whole_lines(like, product, True) or _is_outer_product(product, like))
    limit = STREAMED_ROWS if by_rows else target.registers
    widest = MOST_VECTORS if like.row else target.registers * 3 // 4
    time = TileTime(product, target, like, deep, by_rows)
    for vectors in range(1, min(widest, whole) + 1):
        held = product.extents[like.sliding] if like.sliding else 1  # vectors of b, for each of a's
        most = (target.registers - (held * vectors + 1)) // vectors // deep if like.row else 1
        for rows in range(1, min(most, extent, limit) + 1):
            tiling = copy(like)
            tiling.rows, tiling.vectors = rows, vectors
            tiling.cost = _cost(time, tiling, extent, whole)
            yield tiling


def _cost(time: TileTime, tiling: Tiling, extent: int, whole: int) -> float:
    """Modelled time of the whole product, in slots of which a core has two a cycle."""
    product, target, deep = time.product, time.target, time.deep
    total = 0.0
    for vectors, blocks in parts(whole, tiling.vectors):
        for rows, tiles in row_parts(extent, tiling.rows, bool(tiling.fixed)):
            total += blocks * tiles * time.tile(rows * deep, vectors)
    if tiling.packing:
        sums = extent * deep * tiling.vectors * tiling.lanes * 4
        panels = -(-sums // scratch_bytes(target))
        total += time.steps * whole * panels * 12.0
    if tiling.packing == "turn" and whole == 1 and _is_far(product, tiling.a, target):
        total *= 1 + FAR_NUMBERS
    if tiling.row is None:
        total *= 1 + 6 / tiling.vectors  # a matrix read once: memory is fastest in long pieces
    if tiling.elementwise:
        total *= 1 + NARROW / tiling.vectors  # so it is here, where each number is used a few times
    if is_read_once(product, tiling, target):
        tiles = -(-extent // tiling.rows)
        loads = tiles * (PASS + NEAR_LOAD) + NEAR_LOAD * extent / tiling.vectors
        total += time.steps * whole * loads
    elif whole % tiling.vectors:
        total *= 1.03  # the last block is code of its own
    matrix = len(product.each) == 2 and time.steps > LONGEST_SUM and target.near_pages > 0
    blocks = math.ceil(whole / tiling.vectors)
    exchanged = extent // (tiling.vectors * tiling.lanes)  # blocks, were these rows vectors
    if matrix and 1 < blocks < FEWEST_SHARES and (exchanged >= FEWEST_SHARES or exchanged == 1):
        total *= 1 + FEW_BLOCKS
    if time.steps > LONGEST_SUM and _is_guarded_apart(tiling, product, target):
        total *= 1 + GUARDED_APART
    others = product.size(product.each) / product.extents[tiling.vector] / extent / deep
    return total * others


def _is_far(product: Product, factor: Factor, target: Target) -> bool:
    """Whether what a product reads of a factor comes from memory."""
    size = product.size([x for x in (*product.each, *product.over) if x in factor.strides])
    return size * ITEM_BYTES[factor.buffer.dtype] >= 8 * target.l2_bytes


# -- folds ------------------------------------------------------------------------------------


def _arrange_folds(tiling: Tiling, product: Product, target: Target) -> None:
    """Order the fold loops, and decide which of them are inside a tile.

    A chunk of b is read from the second-level cache for every tile, unless its vectors lie across
    two lines each: then it stays in a third of the first, beside the sums and what is read of a. So
    it does, beside what is read of a, where both are read in vectors.
    """
    item = ITEM_BYTES[tiling.b.buffer.dtype]
    steps = [tiling.b.strides.get(axis, 0) * item for axis in product.over]
    terms = most_terms(product, tiling, target)
    if not tiling.packing and any(step % (tiling.lanes * item) for step in steps):
        terms = min(terms, target.l1_bytes // 3 // (tiling.vectors * tiling.lanes * item))
    if tiling.elementwise and tiling.a.spread is None:
        terms = min(terms, target.l1_bytes * 3 // 8 // (tiling.vectors * tiling.lanes * item))
    strides = tiling.a.strides
    turned = _turned(product, tiling.b) if tiling.packing else None
    innermost = (turned, tiling.sliding)  # at most one of them

    def place(axis: Axis) -> tuple[bool, bool, int]:
        first = product.extents[axis] == 1 or axis in product.stepped
        return not first, axis in innermost, -abs(strides.get(axis, 0))

    order = sorted(product.over, key=place)
    in_chunks = tiling.packing or is_read_once(product, tiling, target)
    tiling.longest = terms if in_chunks else LONGEST_SUM
    if product.size(order) <= tiling.longest:
        tiling.inner = order
        return
    inner: list[Axis] = []
    length = 1
    while order and length * product.extents[order[-1]] <= terms:
        length *= product.extents[order[-1]]
        inner.insert(0, order.pop())
    uncut = {tiling.tied, tiling.sliding}.intersection(order)
    if uncut:
        # The loop of the tied axis is cut where the rows that count change, that of windows which
        # overlap is written out: they stay whole, and in the tile.
        while uncut.intersection(order):
            length *= product.extents[order[-1]]
            inner.insert(0, order.pop())
    elif order and terms // length >= 2 and order[-1] not in product.stepped:
        tiling.strip = even_strip(product.extents[order[-1]], terms // length)
        if order[-1] == turned:
            tiling.strip = -(-tiling.strip // tiling.lanes) * tiling.lanes
        inner.insert(0, order.pop())
    tiling.chunks, tiling.inner = order, inner
