"""The register tile of a product: rows x vectors of sums held in registers while the fold runs.

Each step of the fold loads the vectors of b, then for every row puts one number of a in all lanes
and does one multiply-add a vector. Padding is peeled: a guard is a bound of the innermost loop it
speaks of; a guard on rows decides here which rows each piece of the fold's loop has.
"""

from __future__ import annotations

import itertools

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.fold_loops import FoldLoops
from graphc.codegen.llvm.groups import load_spread
from graphc.codegen.llvm.loops import Carry, Count, whole
from graphc.codegen.llvm.operand import LINE_BYTES, Operands
from graphc.codegen.llvm.packing import packed_factor
from graphc.codegen.llvm.product import Factor, Product
from graphc.codegen.llvm.tiling import Piece, TileGroup, Tiling, even
from graphc.kernel.lang import Axis

NEAR = 12  # steps of the fold: long enough for a line to come from the second-level cache
AHEAD_BYTES = 24 << 10  # read in the time that a line takes to come from memory


class Tile(FoldLoops):
    """Tiles of one product, emitted where the frame stands.

    vectors, tail: the vectors of the block at hand, and how many elements of the last exist (None:
    all). strip: the range of a fold that is cut up.
    """

    def __init__(self, at: Operands, product: Product, tiling: Tiling):
        packed = packed_factor(product, tiling) if tiling.packing else tiling.b
        clips = [guard for guard in product.guards if guard not in tiling.fixed]
        super().__init__(at, product, tiling.a, tiling.b, packed, clips)
        self.tiling = tiling
        self.deep = product.extents[tiling.deep] if tiling.deep else 1
        self.vectors = tiling.vectors
        self.tail: int | None = None
        self.strip: tuple[Count, Count] | None = None

    def sums(self, a: ir.Value, b: ir.Value, group: TileGroup) -> Carry:
        """The tile's sums, row by row, vector by vector."""
        rows = list(range(group.rows))
        start: Carry = [self.at.zero] * (group.rows * self.deep * self.vectors)
        return self._fold(list(self.tiling.inner), a, b, start, rows, group)

    def _fold(
        self,
        axes: list[Axis],
        a: ir.Value,
        b: ir.Value,
        sums: Carry,
        rows: list[int],
        group: TileGroup,
    ) -> Carry:
        """The fold loops `axes` from here inwards."""
        if not axes:
            return self._step(a, b, sums, rows)
        axis, *rest = axes
        extent = self.product.extents[axis]
        if axis == self.tiling.sliding:
            assert not rest
            return self._slide(axis, a, b, sums, rows, group)
        if axis == self.tiling.tied:
            for piece in group.pieces:
                sums = self._piece(piece, rest, a, b, sums, group)
            return sums

        def body(i: ir.Value, carry: Carry) -> Carry:
            near, far = self.both(a, b, axis, i)
            self._fetch_next_rows(near, axis, i, extent, len(rows))
            with self.opened(axis, i):
                return self._fold(rest, near, far, carry, rows, group)

        low: Count = 0
        high: Count = extent
        if self.strip and axis == self.tiling.inner[0]:
            low, high = self.strip
        low, high = self.clipped(axis, low, high)
        if (low, high) == (0, 1):
            return body(whole(0), sums)
        low, step = self.starts(axis, low)
        return self.frame.loop(low, high, step, sums, body, running=not rest)

    def _piece(
        self,
        piece: Piece,
        rest: list[Axis],
        a: ir.Value,
        b: ir.Value,
        sums: Carry,
        group: TileGroup,
    ) -> Carry:
        """Part of the loop tied to the rows, for the rows that count in it."""
        axis, rows = self.tiling.tied, list(piece.rows)
        assert axis is not None
        width = self.deep * self.vectors
        places = [row * width + k for row in rows for k in range(width)]
        chosen = [sums[place] for place in places]

        def body(i: Count, carry: Carry) -> Carry:
            with self.opened(axis, whole(i)):
                return self._fold(rest, *self.both(a, b, axis, i), carry, rows, group)

        low, high = self.clipped(axis, piece.first, piece.last)
        count = piece.last - piece.first
        if (low, high) != (piece.first, piece.last):
            new = self.frame.loop(low, high, 1, chosen, body)
        elif count == 1:
            new = body(piece.first, chosen)
        elif len(rest) == 1 and self._runs_on(axis, rest[0]):
            a, b = self.both(a, b, axis, piece.first)
            new = self._run(rest[0], count * self.product.extents[rest[0]], a, b, chosen, rows)
        else:
            new = self.frame.loop(piece.first, piece.last, 1, chosen, body)
        result = list(sums)
        for place, value in zip(places, new, strict=True):
            result[place] = value
        return result

    def _slide(
        self,
        axis: Axis,
        a: ir.Value,
        b: ir.Value,
        sums: Carry,
        rows: list[int],
        group: TileGroup,
    ) -> Carry:
        """The whole loop over taps along the rows, written out: each vector of a is loaded once."""
        taps = range(self.product.extents[axis])
        met = {k: set(rows) for k in taps}
        if axis == self.tiling.tied:
            met = {k: set(p.rows) for p in group.pieces for k in range(p.first, p.last)}
        apart, tap_apart = self._stride(self.tiling.row), self._stride(axis)
        pairs: dict[int, list[tuple[int, int]]] = {}
        for k, (number, row) in itertools.product(met, enumerate(rows)):
            if row in met[k]:
                pairs.setdefault(row * apart + k * tap_apart, []).append((number, k))
        weights: dict[int, list[ir.Value]] = {}
        new = list(sums)
        for offset in sorted(pairs):
            place = self.at.moved(a, offset)
            if self.tiling.elementwise:
                vectors = [self._load_vector(self.tiling.a, place, j) for j in range(self.vectors)]
            else:
                vectors = [self.at.everywhere(place)] * self.vectors
            for number, k in pairs[offset]:
                if k not in weights:
                    weights[k] = self._vectors_of_b(self.at.along(b, self.inner_b, axis, k))
                for j, (left, right) in enumerate(zip(vectors, weights[k], strict=True)):
                    at = number * self.vectors + j
                    new[at] = self.at.math.fma(left, right, new[at])
        return new

    def _vectors_of_b(self, b: ir.Value) -> list[ir.Value]:
        return [self._load_vector(self.tiling.b, b, j) for j in range(self.vectors)]

    def _runs_on(self, far: Axis, near: Axis) -> bool:
        """Whether the two loops are one long loop for both operands."""
        extent = self.product.extents[near]
        if near in self.product.stepped or any(near in guard.terms for guard in self.clips):
            return False
        return all(
            factor.strides.get(far, 0) == factor.strides.get(near, 0) * extent
            for factor in (self.tiling.a, self.inner_b)
        )

    def _run(
        self, axis: Axis, count: int, a: ir.Value, b: ir.Value, sums: Carry, rows: list[int]
    ) -> Carry:
        def body(i: ir.Value, carry: Carry) -> Carry:
            near, far = self.both(a, b, axis, i)
            self._fetch_next_rows(near, axis, i, count, len(rows))
            return self._step(near, far, carry, rows)

        return self.frame.loop(0, count, 1, sums, body, running=True)

    def _step(self, a: ir.Value, b: ir.Value, sums: Carry, rows: list[int]) -> Carry:
        """One multiply-add for every sum."""
        ahead: list[ir.Value] = []
        if self.tiling.wide > 1:
            ahead = self._lines_of_next_piece()
        elif self.tiling.chunked and not self._has_row_blocks(self.tiling.innermost):
            ahead = self._ahead(a, b)
        if len(sums) == self.vectors and not self.tiling.elementwise:
            only = self.at.moved(a, rows[0] * self._stride(self.tiling.row))
            return self._long_step(only, b, sums, ahead)
        vectors = self._vectors_of_b(b)
        self._fetch_near(a)
        new = list(sums)
        step = self._stride(self.tiling.row)
        inner = self._stride(self.tiling.deep)
        for number, row in enumerate(rows):
            for deep in range(self.deep):
                place = self.at.moved(a, row * step + deep * inner)
                left = None if self.tiling.elementwise else self.at.everywhere(place)
                for j, right in enumerate(vectors):
                    k = (number * self.deep + deep) * self.vectors + j
                    other = self._load_vector(self.tiling.a, place, j) if left is None else left
                    new[k] = self.at.math.fma(other, right, new[k])
            for line in ahead[number :: len(rows)]:
                self.at.fetch(line)
        return new

    def _long_step(self, a: ir.Value, b: ir.Value, sums: Carry, ahead: list[ir.Value]) -> Carry:
        """A step of one row: every load has one use, and every line is asked for between two."""
        left = self.at.everywhere(a)
        new = []
        for j, old in enumerate(sums):
            new.append(self.at.math.fma(left, self._load_vector(self.tiling.b, b, j), old))
            for line in ahead[j :: len(sums)]:
                self.at.fetch(line)
        return new

    def _has_row_blocks(self, axis: Axis | None) -> bool:
        """Whether along this loop the rows of tiles that follow each other lie in one block."""
        if axis is None or self._stride(axis) != 1:
            return False
        step = self._stride(self.tiling.row)
        return step * self.at.item >= LINE_BYTES and step <= self.product.extents[axis]

    def _to_next_line(self, axis: Axis, count: int) -> int:
        """Elements to the line below, where rows lie far apart and tiles read little of each."""
        tiling, step = self.tiling, self._stride(self.tiling.row)
        if tiling.row is None or self._stride(axis) != 1 or step < 4 * count:
            return 0
        reach = step * self.product.extents[tiling.row]
        steps = [abs(tiling.a.strides.get(x, 0)) for x in tiling.outer]
        return min((x for x in steps if x >= reach), default=0)

    def _fetch_next_rows(self, a: ir.Value, axis: Axis, i: ir.Value, count: int, rows: int) -> None:
        """Ask for a piece of what the next tile reads, the whole in `count` such steps."""
        step = self._stride(self.tiling.row)
        distance = step * (rows - 1) + count
        if not self._has_row_blocks(axis):
            distance = self._to_next_line(axis, count)
        if self.tiling.elementwise or self.tiling.reads_pieces or not distance:
            return
        piece = -(-rows * step // count)
        ahead = self.at.moved(a, distance)
        self.at.fetch(self.at.moved(ahead, self.builder.mul(i, whole(piece - 1))), level=1)

    def _fetch_near(self, a: ir.Value) -> None:
        """Ask for the lines of a few steps later, where every step reads others."""
        tiling = self.tiling
        step = self._stride(tiling.innermost)
        if tiling.elementwise or step * self.at.item < LINE_BYTES or self._stride(tiling.row) != 1:
            return
        if self.product.size(tiling.inner) <= 2 * NEAR:
            return  # most of these lines would lie behind the last that is read
        ends = (0, tiling.rows - 1)
        if tiling.rows + self.vectors + len(ends) > tiling.rows * self.vectors:
            return  # there are more loads than multiplications already
        for row in ends:
            self.at.fetch(self.at.moved(a, NEAR * step + row), level=1)

    def _ahead(self, a: ir.Value, b: ir.Value) -> list[ir.Value]:
        """The lines that the next chunk reads here."""
        tiling = self.tiling
        axis, count = (tiling.inner[0], tiling.strip) if tiling.strip else (tiling.chunks[-1], 1)
        width = self.vectors * tiling.lanes
        if self._reads_on():
            count = min(count, max(1, AHEAD_BYTES // (width * self.at.item)))
        operands = [(tiling.a, a, width if tiling.elementwise else 1), (tiling.b, b, width)]
        step, row = self._stride(tiling.innermost), self._stride(tiling.row)
        if row * self.at.item >= LINE_BYTES:
            between = [x * row for x in range(1, tiling.rows) if x * row < step]
            operands += [(tiling.a, self.at.moved(a, offset), 1) for offset in between]
        lines = []
        for factor, place, items in operands:
            if tiling.packing if factor is tiling.b else tiling.packs_tiles:
                continue  # who copies it asks for these lines
            ahead = count * factor.strides.get(axis, 0)
            for offset in range(0, items, LINE_BYTES // self.at.item) if ahead else ():
                lines.append(self.at.moved(place, ahead + offset))
        return lines

    def look_ahead(
        self, b: ir.Value, block: tuple[ir.Value, ir.Value], tile: Count, tiles: int
    ) -> None:
        """Before `tile` of a wide panel, one of `tiles` to a block: find its part of what follows.

        All tiles of a piece, `wide` blocks of a chunk, ask for the rows of the piece to the right
        in the order in which these lie; after the last, of the first piece of the next chunk.
        b: where the panel's rows begin. block: its number, and how many there are.
        """
        assert self.strip is not None
        tiling, x = self.tiling, self.builder
        number, count = block
        inside = x.urem(number, whole(tiling.wide))
        right = x.add(x.sub(number, inside), whole(tiling.wide))
        is_last = x.icmp_signed(">=", right, count)
        end = x.add(whole(self.strip[0]), whole(tiling.strip))
        first = x.select(is_last, end, whole(self.strip[0]))
        width = whole(tiling.vectors * tiling.lanes)
        across = x.select(is_last, whole(0), x.mul(right, width))
        self.following = self.at.moved(self.at.along(b, tiling.b, tiling.inner[0], first), across)
        lines = -(-tiling.vectors * tiling.lanes * self.at.item // LINE_BYTES)
        if isinstance(tile, int):
            parts = even(lines, -(-lines // tiles)) if lines > tiles else [1] * lines
            self.asked, before = (parts + [0] * tiles)[tile], whole(sum(parts[:tile]))
            block_lines = lines
        else:  # what follows lies below this piece: asking for more of it does no harm
            self.asked = -(-lines // tiles)
            before, block_lines = x.mul(tile, whole(self.asked)), self.asked * tiles
        shares = x.add(x.mul(inside, whole(block_lines)), before)
        self.line = x.mul(shares, whole(tiling.strip))
        self.across = lines * tiling.wide

    def _lines_of_next_piece(self) -> list[ir.Value]:
        """What this step asks for of the next piece of a wide panel."""
        assert self.strip is not None
        tiling, x = self.tiling, self.builder
        axis, items = tiling.inner[0], LINE_BYTES // self.at.item
        step = x.sub(self.open[axis], whole(self.strip[0]))
        first = x.add(self.line, x.mul(step, whole(self.asked)))
        lines = [x.add(first, whole(k)) for k in range(self.asked)]
        across = whole(self.across)
        rows = [self.at.along(self.following, tiling.b, axis, x.udiv(y, across)) for y in lines]
        return [
            self.at.moved(row, x.mul(x.urem(line, across), whole(items)))
            for row, line in zip(rows, lines, strict=True)
        ]

    def _reads_on(self) -> bool:
        """Whether a panel is one tile, which reads b from the first step of all to the last."""
        tiling = self.tiling
        lines = tiling.lines * self.product.size(tiling.whole_lines)
        alone = tiling.panel_rows * lines == tiling.rows
        return alone and tiling.strip > 0 and len(tiling.inner) == 1

    def _stride(self, axis: Axis | None) -> int:
        return self.tiling.a.strides.get(axis, 0) if axis is not None else 0

    def _load_vector(self, factor: Factor, place: ir.Value, j: int) -> ir.Value:
        last = j == self.vectors - 1 and not self.tiling.packing
        tail = self.tail if last else None
        if factor.spread is not None:
            return load_spread(self.at, factor.spread, place, j, tail)
        return self.at.load(self.at.moved(place, j * self.tiling.lanes), tail)
