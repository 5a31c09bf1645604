"""How a dense product runs in registers: which loops are rows, which lanes, what stays in caches.

The tile is acc[row, vector] += a[row, k] * b[k, vector]: `a` is read one number at a time and put
in all lanes, `b` in vectors along an axis in which it lies contiguously and on which `a` does not
depend; or on which `a` lies contiguously, too, and then is read in vectors. `tile_choice.py` says
which tiling a product gets.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from graphc.codegen.llvm.product import Factor, Interval, Product
from graphc.kernel.lang import Axis


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
    lines_together: a thread that has several shares of the same lines does them as one.
    rows_together: each tile of rows is a share, and a thread does those that it has as one.
    whole_lines: axes that a panel covers besides, as a whole.
    packing: each chunk of b is first copied ("copy") or transposed ("turn") into a dense block.
    elementwise: a is read in vectors, too, as in a convolution of each channel by itself.
    sliding: the fold axis along which windows of such a tile's rows overlap: it is written out, so
    that each vector of a is loaded once for all of them.
    longest: so many terms at most are added up in a register before their sum waits in memory.
    held: why results do not go past the caches: "small" (a cache may hold them until they are
    read), "long sums" (stores take little of the time), "chunks" (sums wait in memory), "parts of
    lines", "shared cache" (it takes them faster). Empty: they do, where they lie at multiples of a
    vector's size.
    by_rows: a few whole rows of the result are a share, so that they are written side by side.
    wide: blocks of vectors that a share covers side by side, so that b is read in long pieces.
    beside: such shares that a thread does as one: a chunk passes over all of them.
    packs_tiles: each chunk of a is copied first, tile by tile: many blocks pass over it.
    turned: neighbours in the result lie along the rows; sums that wait in memory are transposed.
    lines_inside: lines lie nearer to each other in the result than rows: it is stored row by row.
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
    lines_together: bool = False
    rows_together: bool = False
    whole_lines: list[Axis] = field(default_factory=list)
    panel_rows: int = 1
    chunks: list[Axis] = field(default_factory=list)
    strip: int = 0
    inner: list[Axis] = field(default_factory=list)
    vectors_outside: bool = True
    packing: str = ""
    elementwise: bool = False
    sliding: Axis | None = None
    longest: int = 0
    held: str = "small"
    by_rows: bool = False
    wide: int = 1
    beside: int = 1
    packs_tiles: bool = False
    turned: bool = False
    lines_inside: bool = False
    groups: list[TileGroup] = field(default_factory=list)

    @property
    def streamed(self) -> bool:
        """Whether results go past the caches."""
        return not self.held

    @property
    def reads_pieces(self) -> bool:
        """Whether a thread has many wide shares, so that b is read in long pieces, in order."""
        return self.beside > 1 and self.wide > 1

    @property
    def chunked(self) -> bool:
        """Whether sums wait in memory between chunks of the fold."""
        return bool(self.chunks) or self.strip > 0

    @property
    def innermost(self) -> Axis | None:
        """The last of the fold loops inside a tile, if there is one."""
        return self.inner[-1] if self.inner else None


def row_groups(tiling: Tiling, product: Product) -> list[TileGroup]:
    """The tiles of one line: equal neighbours are one group, without guards all of one size."""
    extent = product.extents[tiling.row] if tiling.row else 1
    groups: list[TileGroup] = []
    first = 0
    if not tiling.fixed:
        for rows, count in parts(extent, tiling.rows):
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


def overlapping(tiling: Tiling, product: Product, rows: int) -> int:
    """How many elements of a the windows of so many neighbouring rows meet."""
    assert tiling.row is not None and tiling.sliding is not None
    step, apart = tiling.a.strides[tiling.row], tiling.a.strides[tiling.sliding]
    taps = range(product.extents[tiling.sliding])
    return len({row * step + tap * apart for row in range(rows) for tap in taps})


def parts(extent: int, size: int) -> list[tuple[int, int]]:
    """(size, count) of full parts and of what is left over."""
    return [(s, n) for s, n in ((size, extent // size), (extent % size, 1)) if s and n]


def row_parts(extent: int, rows: int, evenly: bool) -> list[tuple[int, int]]:
    """(size, how many) of the parts that rows are cut into: as large as can be, or as equal."""
    if not evenly:
        return parts(extent, rows)
    pieces = even(extent, rows)
    return [(size, pieces.count(size)) for size in sorted(set(pieces), reverse=True)]


def even(extent: int, most: int) -> list[int]:
    """`extent` in the fewest parts of at most `most`, as equal as can be."""
    count = -(-extent // most)
    return [extent // count + (part < extent % count) for part in range(count)]
