"""How a dense product runs in registers: which loops are rows, which lanes, what stays in caches.

The tile is acc[row, vector] += a[row, k] * b[k, vector]: `a` is read one number at a time and put
in all lanes, `b` in vectors along an axis in which it lies contiguously and on which `a` does not
depend; or on which `a` lies contiguously, too, and then is read in vectors. The choice is made
among all tiles that the registers hold, by a count of the instructions, what is wasted in partial
tiles included.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from graphc.codegen.llvm.product import Factor, Interval, Product
from graphc.codegen.llvm.target import ITEM_BYTES, Target
from graphc.kernel.lang import Axis

LONGEST_SUM = 1200  # a sum of so many terms is added up in one register; longer ones in chunks
CHUNK = 256  # terms of a chunk, where loops can be cut so
MOST_VECTORS = 8
MOST_PIECES = 40  # inner loops that one product may become by peeling its guards
SHARES = 12  # the shared loop has so many iterations, where panels stay large enough
FEWEST_TILES = 8
FEWEST_SHARES = 8  # else threads have unequal parts
FEWEST_TURNED = 20  # tiles of a panel, where each panel transposes what its tiles read
WAY_BYTES = 4096  # addresses so far apart share a set of the first-level cache
DEEPEST = 8
NARROWEST = 16  # bytes of the smallest vector registers
UNPACKED_ROWS = 128  # of a panel that has its sums in registers and reads b as it lies
STREAMED_SUM = 128  # terms of a sum at most, where its result goes past the caches
STREAMED_ROWS = 4  # lines of it that are written side by side
LEAST_SCRATCH, MOST_SCRATCH = 96 << 10, 256 << 10  # bytes of a panel's sums


@dataclass
class Piece:
    """Values first .. last - 1 of the fold axis tied to the rows, and the rows that count there."""

    first: int
    last: int
    rows: tuple[int, ...]


@dataclass
class TileGroup:
    """`count` equal tiles of `rows` rows, side by side from row `first` on."""

    first: int
    count: int
    rows: int
    pieces: list[Piece] = field(default_factory=list)


@dataclass
class Tiling:
    """A schedule of a product.

    vector, row, line: the axes in lanes, in the tile's rows, and the one that a panel covers beside
    the rows. deep: a short axis that lies in every tile as a whole, its points being rows too.
    rows: points of `row` in a tile. vectors: of `lanes` elements. outer: the other `each` axes.
    tied: the fold axis that guards tie to the row, if one does; static guards are those that do.
    chunks: fold loops around a panel; the sums of a panel wait in memory between them. strip: so
    many values of the first of `inner` make a chunk. inner: fold loops inside a tile.
    panel_rows, lines: what one share covers of row (a multiple of rows, or all) and line.
    whole_lines: axes that a panel covers besides, as a whole.
    packing: each chunk of b is first copied ("copy") or transposed ("turn") into a dense block.
    elementwise: a is read in vectors, too, as in a convolution of each channel by itself.
    streamed: results go past the caches where they lie at multiples of a vector's size.
    by_rows: a few whole rows of the result are a share, so that they are written side by side.
    """

    a: Factor
    b: Factor
    vector: Axis
    lanes: int
    row: Axis | None
    deep: Axis | None
    rows: int
    vectors: int
    tied: Axis | None
    fixed: list[Interval]
    cost: float
    outer: list[Axis] = field(default_factory=list)
    line: Axis | None = None
    lines: int = 1
    whole_lines: list[Axis] = field(default_factory=list)
    panel_rows: int = 1
    chunks: list[Axis] = field(default_factory=list)
    strip: int = 0
    inner: list[Axis] = field(default_factory=list)
    vectors_outside: bool = True
    packing: str = ""
    elementwise: bool = False
    streamed: bool = False
    by_rows: bool = False
    groups: list[TileGroup] = field(default_factory=list)

    @property
    def chunked(self) -> bool:
        """Whether sums wait in memory between chunks of the fold."""
        return bool(self.chunks) or self.strip > 0

    @property
    def innermost(self) -> Axis | None:
        """The last of the fold loops inside a tile, if there is one."""
        return self.inner[-1] if self.inner else None


def choose_tiling(product: Product, target: Target) -> Tiling | None:
    """The cheapest tiling, or None where the product has no form that tiles cover."""
    best: Tiling | None = None
    for tiling in _candidates(product, target):
        if best is None or tiling.cost < best.cost:
            best = tiling
    if best is None:
        return None
    _arrange_folds(best, product, target)
    best.groups = row_groups(best, product)
    if sum(max(1, len(group.pieces)) for group in best.groups) > MOST_PIECES:
        return None
    best.streamed = _streams(best, product, target)
    best.by_rows = best.streamed and _stays(product, best.b, target)
    collides = not best.packing and _collides(best, product)
    _arrange_shares(best, product, target, collides)
    lines = best.lines * product.size(best.whole_lines)
    if collides and best.panel_rows // best.rows * lines >= FEWEST_TILES:
        best.packing = "copy"
    return best


def _streams(tiling: Tiling, product: Product, target: Target) -> bool:
    """Whether results go past the caches: lines that are written whole need not be read first.

    The weight gradient of an inner product of a small batch is stored so.
    """
    store, *others = product.store_nodes()
    address = store.address
    item = ITEM_BYTES[address.buffer.dtype]
    if others or store.mode != "set" or address.parts or address.buffer.name in store.value.reads:
        return False
    if tiling.chunked or tiling.lanes == 1 or address.terms.get(tiling.vector) != 1:
        return False
    steps = [s for axis, s in address.terms.items() if axis != tiling.vector]
    vector_bytes = tiling.lanes * ITEM_BYTES[tiling.a.buffer.dtype]
    if any(step * item % vector_bytes for step in (*steps, address.constant)):
        return False
    return _fills_memory(product, target)


def _stays(product: Product, b: Factor, target: Target) -> bool:
    """Whether all of b stays in the second-level cache, so that every few rows may pass over it."""
    size = product.size([x for x in (*product.each, *product.over) if x in b.strides])
    return size * ITEM_BYTES[b.buffer.dtype] <= target.l2_bytes * 3 // 4


def _fills_memory(product: Product, target: Target) -> bool:
    """Whether a few multiplications make each element of a matrix that no cache will hold."""
    buffer = product.store_nodes()[0].address.buffer
    size = math.prod(buffer.shape) * ITEM_BYTES[buffer.dtype]
    return product.size(product.over) <= STREAMED_SUM and size >= 8 * target.l2_bytes


def _collides(tiling: Tiling, product: Product) -> bool:
    """Whether the rows of b fall into so few sets of the caches that a dense copy may pay."""
    if tiling.b.guarded or tiling.tied is not None or tiling.b.spread or tiling.elementwise:
        return False
    item = ITEM_BYTES[tiling.b.buffer.dtype]
    block = product.size(product.over) * tiling.vectors * tiling.lanes * item
    step = abs(tiling.b.strides.get(tiling.innermost, 0)) * item if tiling.innermost else 0
    return step >= 512 and step % 512 == 0 and (tiling.chunked or block <= LEAST_SCRATCH)


# -- candidates -------------------------------------------------------------------------------


def _candidates(product: Product, target: Target) -> Iterator[Tiling]:
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
            lanes = _lanes(product, target, vector)
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


def _lanes(product: Product, target: Target, vector: Axis) -> int:
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
    """The fold axis along which b lies contiguously, which a transposition makes the vectors'."""
    found = [axis for axis in product.over if b.strides.get(axis, 0) == 1]
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


def _sizes(product: Product, target: Target, like: Tiling) -> Iterator[Tiling]:
    extent = product.extents[like.row] if like.row else 1
    deep = product.extents[like.deep] if like.deep else 1
    whole = -(-product.extents[like.vector] // like.lanes)
    by_rows = _fills_memory(product, target) and _stays(product, like.b, target)
    limit = STREAMED_ROWS if by_rows else target.registers
    widest = MOST_VECTORS if like.row else target.registers * 3 // 4
    for vectors in range(1, min(widest, whole) + 1):
        most = (target.registers - vectors - 1) // vectors // deep if like.row else 1
        for rows in range(1, min(most, extent, limit) + 1):
            tiling = replace(like, rows=rows, vectors=vectors)
            tiling.cost = _cost(product, target, tiling, extent, deep, whole)
            yield tiling


def _cost(
    product: Product, target: Target, tiling: Tiling, extent: int, deep: int, whole: int
) -> float:
    """Modelled time of the whole product, in slots of which a core has two a cycle."""
    steps = product.size(product.over)
    row_stride = tiling.a.strides.get(tiling.row, 0) if tiling.row else 0
    a_bytes = ITEM_BYTES[tiling.a.buffer.dtype] * row_stride
    sets = WAY_BYTES // math.gcd(a_bytes, WAY_BYTES)  # of the first-level cache, in pages
    stride = max(product.store_strides(tiling.vector), key=abs)
    per_store = 2.0 if stride == 1 else 2.0 * tiling.lanes

    def near(vectors: int) -> bool:
        """Whether what tiles read of b, one after another, stays in the first-level cache."""
        return min(steps, CHUNK) * vectors * target.vector_bytes <= target.l1_bytes

    def step(rows: int, vectors: int) -> float:
        lines = vectors * max(target.vector_bytes, 16) / (32 if near(vectors) else 16)
        loads = rows * (vectors if tiling.elementwise else 1) * (3 if tiling.a.spread else 1)
        pieces = 2 * tiling.lanes // tiling.b.spread.size if tiling.b.spread else 1
        busy = max(rows * vectors, 8, loads + vectors * pieces + 2, lines)
        return busy * (1.35 if rows > 7 * sets else 1.0)

    def tile(rows: int, vectors: int) -> float:
        stores = rows * vectors * per_store * len(product.store_nodes())
        return steps * step(rows, vectors) + 30 + 3 * rows * vectors + stores

    total = 0.0
    for vectors, blocks in _parts(whole, tiling.vectors):
        for rows, tiles in _row_parts(extent, tiling.rows, bool(tiling.fixed)):
            total += blocks * tiles * tile(rows * deep, vectors)
    if tiling.packing:
        sums = extent * deep * tiling.vectors * tiling.lanes * 4
        panels = -(-sums // scratch_bytes(target))
        total += steps * whole * panels * 12.0
    if tiling.row is None:
        total *= 1 + 6 / tiling.vectors  # a matrix read once: memory is fastest in long pieces
    if whole % tiling.vectors:
        total *= 1.03  # the last block is code of its own
    others = product.size(product.each) / product.extents[tiling.vector] / extent / deep
    return total * others


def _parts(extent: int, size: int) -> list[tuple[int, int]]:
    """(size, count) of full parts and of what is left over."""
    return [(s, n) for s, n in ((size, extent // size), (extent % size, 1)) if s and n]


def _row_parts(extent: int, rows: int, evenly: bool) -> list[tuple[int, int]]:
    if not evenly:
        return _parts(extent, rows)
    pieces = even(extent, rows)
    return [(size, pieces.count(size)) for size in sorted(set(pieces), reverse=True)]


def even(extent: int, most: int) -> list[int]:
    """`extent` in the fewest parts of at most `most`, as equal as can be."""
    parts = -(-extent // most)
    return [extent // parts + (part < extent % parts) for part in range(parts)]


# -- folds ------------------------------------------------------------------------------------


def _arrange_folds(tiling: Tiling, product: Product, target: Target) -> None:
    """Order the fold loops, and decide which of them are inside a tile.

    A chunk of b is read from the second-level cache for every tile, unless its vectors lie across
    two lines each: then it stays in half of the first.
    """
    item = ITEM_BYTES[tiling.b.buffer.dtype]
    steps = [tiling.b.strides.get(axis, 0) * item for axis in product.over]
    terms = CHUNK
    if not tiling.packing and any(step % (tiling.lanes * item) for step in steps):
        terms = min(CHUNK, target.l1_bytes // 2 // (tiling.vectors * tiling.lanes * item))
    strides = tiling.a.strides
    turned = _turned(product, tiling.b) if tiling.packing else None

    def place(axis: Axis) -> tuple[bool, bool, int]:
        first = product.extents[axis] == 1 or axis in product.stepped
        return not first, axis == turned, -abs(strides.get(axis, 0))

    order = sorted(product.over, key=place)
    if product.size(order) <= (terms if tiling.packing else LONGEST_SUM):
        tiling.inner = order
        return
    inner: list[Axis] = []
    length = 1
    while order and length * product.extents[order[-1]] <= terms:
        length *= product.extents[order[-1]]
        inner.insert(0, order.pop())
    if tiling.tied in order:
        # Its loop is cut where the rows that count change; it stays whole, and in the tile.
        while order and tiling.tied not in inner:
            length *= product.extents[order[-1]]
            inner.insert(0, order.pop())
    elif order and terms // length >= 2 and order[-1] not in product.stepped:
        tiling.strip = _strip(product.extents[order[-1]], terms // length)
        if order[-1] == turned:
            tiling.strip = -(-tiling.strip // tiling.lanes) * tiling.lanes
        inner.insert(0, order.pop())
    tiling.chunks, tiling.inner = order, inner


def _strip(extent: int, most: int) -> int:
    """Strips of at most `most`, as equal as can be."""
    return -(-extent // -(-extent // most))


# -- rows -------------------------------------------------------------------------------------


def row_groups(tiling: Tiling, product: Product) -> list[TileGroup]:
    """The tiles of one line: equal neighbours are one group, without guards all of one size."""
    extent = product.extents[tiling.row] if tiling.row else 1
    groups: list[TileGroup] = []
    first = 0
    if not tiling.fixed:
        for rows, count in _parts(extent, tiling.rows):
            groups.append(TileGroup(first, count, rows))
            first += rows * count
        return groups
    for rows in even(extent, tiling.rows):
        pieces = _pieces(tiling, product, first, rows)
        last = groups[-1] if groups else None
        if last is not None and (last.rows, last.pieces) == (rows, pieces):
            last.count += 1
        else:
            groups.append(TileGroup(first, 1, rows, pieces))
        first += rows
    return groups


def _pieces(tiling: Tiling, product: Product, first: int, rows: int) -> list[Piece]:
    assert tiling.tied is not None and tiling.row is not None
    found: list[Piece] = []
    for k in range(product.extents[tiling.tied]):
        valid = tuple(
            row
            for row in range(rows)
            if all(_holds(guard, tiling, first + row, k) for guard in tiling.fixed)
        )
        if found and found[-1].rows == valid:
            found[-1].last = k + 1
        else:
            found.append(Piece(k, k + 1, valid))
    return [piece for piece in found if piece.rows]


def _holds(guard: Interval, tiling: Tiling, row: int, k: int) -> bool:
    value = guard.constant
    for axis, coefficient in guard.terms.items():
        value += coefficient * (row if axis == tiling.row else k)
    return 0 <= value < guard.extent


# -- shares -----------------------------------------------------------------------------------


def scratch_bytes(target: Target) -> int:
    """How much memory the sums of a panel may take: they stay in the second-level cache."""
    return min(max(target.l2_bytes // 4, LEAST_SCRATCH), MOST_SCRATCH)


def _arrange_shares(tiling: Tiling, product: Product, target: Target, packs: bool) -> None:
    """Decide what one iteration of the shared loop covers.

    Large panels read b, or copy it where it `packs`, seldom; small ones leave enough shares for
    many threads.
    """
    taken = (tiling.vector, tiling.row, tiling.deep)
    tiling.outer = [axis for axis in product.each if axis not in taken]
    tiling.outer.sort(key=lambda axis: -abs(tiling.a.strides.get(axis, 0)))
    extent = product.extents[tiling.row] if tiling.row else 1
    deep = product.extents[tiling.deep] if tiling.deep else 1
    vectors = -(-product.extents[tiling.vector] // tiling.lanes)
    others = product.size(tiling.outer) * -(-vectors // tiling.vectors)
    item = ITEM_BYTES[tiling.b.buffer.dtype]
    width = tiling.vectors * tiling.lanes * item
    most_rows = max(1, scratch_bytes(target) // (width * deep))
    tiling.panel_rows = extent
    if tiling.by_rows:
        # A few long rows are written side by side: memory takes many short pieces more slowly.
        tiling.panel_rows = min(tiling.rows, extent)
        tiling.vectors_outside = False
        return
    if not tiling.fixed:
        others = _take_whole_lines(tiling, product, others, most_rows)
        most_rows //= product.size(tiling.whole_lines)
        tiles = -(-extent // tiling.rows)
        wanted = tiles // max(1, SHARES // others)
        most = (most_rows if tiling.chunked or packs else UNPACKED_ROWS) // tiling.rows
        fewest = FEWEST_TURNED if tiling.packing == "turn" else FEWEST_TILES
        tiles = max(1, min(tiles, most, max(wanted, fewest)))
        tiling.panel_rows = tiles * tiling.rows
    free = _line_axes(tiling, product)
    if tiling.chunked and tiling.panel_rows >= extent and free:
        _take_lines(tiling, product, target, free[0], most_rows // extent, others)
    whole = product.size(product.over) * product.extents[tiling.vector] * item
    tiling.vectors_outside = whole > target.l2_bytes * 3 // 4  # b as a whole does not stay


def _line_axes(tiling: Tiling, product: Product) -> list[Axis]:
    """Axes that move a but not b, the one with the shortest steps first."""
    held = {step.each_axis for step in product.stepped.values()}
    free = [x for x in tiling.outer if x in tiling.a.strides and x not in tiling.b.strides]
    free = [x for x in free if x not in held]
    return sorted(free, key=lambda axis: abs(tiling.a.strides[axis]))


def _take_whole_lines(tiling: Tiling, product: Product, others: int, most_rows: int) -> int:
    """Let a panel cover all taps of a window, which share what they read and lie side by side.

    Returns how many panels remain of `others`.
    """
    across = max(map(abs, product.store_strides(tiling.vector)))
    for axis in _line_axes(tiling, product):
        count = product.extents[axis]
        rows = most_rows // product.size([*tiling.whole_lines, axis])
        small = tiling.chunked and rows < FEWEST_TILES * tiling.rows
        apart = max(map(abs, product.store_strides(axis))) >= across
        if small or apart or others // count < SHARES:
            break
        tiling.whole_lines.append(axis)
        tiling.outer.remove(axis)
        others //= count
    return others


def _take_lines(
    tiling: Tiling, product: Product, target: Target, line: Axis, most: int, others: int
) -> None:
    """Let a panel cover several lines, as far as what they read stays in the second-level cache."""
    count = product.extents[line]
    step = abs(tiling.a.strides[line]) * ITEM_BYTES[tiling.a.buffer.dtype]
    tiles = sum(group.count for group in tiling.groups)
    wanted = max(others // SHARES, -(-FEWEST_TILES // tiles))
    if 2 * wanted > count:
        wanted = count  # rather than two uneven parts
    fits = max(1, target.l2_bytes // 2 // step)
    tiling.line = line
    lines = _strip(count, max(1, min(most, count, wanted, fits)))
    while lines > 1 and others // count * -(-count // lines) < FEWEST_SHARES:
        lines -= 1
    tiling.lines = lines
    tiling.outer.remove(line)
