"""How the weight gradient of a depthwise convolution runs: sums of all its taps in registers.

dw[c, j, k] is the sum over images, lines y and columns x of dy[y, x, c] . x[y + j, x + k, c]. With
channels in lanes a tile of rows k of one line j reads each vector of the data once for every tap,
and dy once for every line of taps. Here the sums of all taps of a few vectors of channels stay in
registers, and a tile goes over dy once: a few neighbouring columns at a time, so that each vector
of the data is loaded once for all the taps of all of them that meet it.

Strips of a few lines of dy are taken for all channels before the next strip: memory is read in long
pieces, and the data's lines that the next strip meets again wait in the second-level cache. So do
the sums, a strip's being added to them: this also bounds how many terms are added up in a row.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from graphc.codegen.llvm.kept_lines import KeptLines, kept_lines
from graphc.codegen.llvm.panel_shape import even_strip, scratch_bytes
from graphc.codegen.llvm.product import Factor, Interval, Product
from graphc.codegen.llvm.target import ITEM_BYTES, Target
from graphc.codegen.llvm.tile_choice import NARROW, fewest_lanes
from graphc.codegen.llvm.tiling import parts
from graphc.kernel.lang import Axis

LONGEST_SUM = 1200  # terms one after another in one lane
KEPT_PART = 0.65  # of the first-level cache, for lines that are kept
KEPT_VECTORS = 2  # that a tile which keeps lines has, if it can: memory is slow in short pieces
READ_AGAIN = 0.25  # of the time more, where lines that could be kept are not
KEPT_STRIP = 600  # the same where lines are kept: each strip begins with the lines of a window
STRIP = 96  # points of dy in a strip, where its lines are not longer
MOST_VECTORS = 3
MOST_COLUMNS = 4
MOST_PRODUCTS = 1500  # multiplications written out, for lines and columns of every kind
CACHE_PART = 0.5  # of the second-level cache, for what a strip reads
CHANNEL_GRAIN = 4  # vectors of channels that threads had better not share


@dataclass(frozen=True)
class Span:
    """Points first .. last - 1 of a fold loop, and the taps that count there, by number."""

    first: int
    last: int
    taps: frozenset[int]


@dataclass
class TapTiling:
    """A schedule: all taps for `vectors` vectors of `lanes` channels, by `columns` columns at once.

    a: the data, which taps move; b: dy. points: the taps. column, line: the fold loops inside a
    tile, in spans of equal taps. chunks: the other folds, outermost first.
    strip: lines of a tile. wide: vectors of channels for which a strip is done before the next.
    kept: lines of a that a tile copies to read them once, if it does.
    """

    a: Factor
    b: Factor
    vector: Axis
    lanes: int
    taps: list[Axis]
    points: list[tuple[int, ...]]
    column: Axis
    line: Axis | None
    chunks: list[Axis]
    column_spans: list[Span] = field(default_factory=list)
    line_spans: list[Span] = field(default_factory=list)
    vectors: int = 1
    columns: int = 1
    strip: int = 1
    wide: int = 1
    kept: KeptLines | None = None
    cost: float = 0.0

    @property
    def offsets(self) -> list[int]:
        """Where the taps lie, in elements of a."""
        steps = [self.a.strides[axis] for axis in self.taps]
        return [sum(i * s for i, s in zip(point, steps, strict=True)) for point in self.points]

    def step(self, factor: Factor, axis: Axis | None) -> int:
        """Elements of a factor from one point of a loop to the next."""
        return factor.strides.get(axis, 0) if axis is not None else 0

    def met(self, taps: Sequence[int], columns: int) -> dict[int, list[tuple[int, int]]]:
        """Places in a that these taps of so many columns meet: the (column, tap) that do."""
        found: dict[int, list[tuple[int, int]]] = {}
        step, offsets = self.step(self.a, self.column), self.offsets
        for column, tap in itertools.product(range(columns), taps):
            found.setdefault(column * step + offsets[tap], []).append((column, tap))
        return dict(sorted(found.items()))


def choose_tap_sums(product: Product, target: Target) -> TapTiling | None:
    """The cheapest such tile; None where the product is not of this form."""
    best: TapTiling | None = None
    for a, b in ((product.left, product.right), (product.right, product.left)):
        for vector in product.each:
            like = _form(product, target, a, b, vector)
            for tiling in () if like is None else _sizes(like, product, target):
                if best is None or tiling.cost < best.cost:
                    best = tiling
    return best


def _form(product: Product, target: Target, a: Factor, b: Factor, vector: Axis) -> TapTiling | None:
    """The loops' roles, where channels lie side by side in both and everything else is a tap."""
    rows = a.strides.get(vector) == b.strides.get(vector) == 1
    if not rows or a.spread or b.spread or product.stepped:
        return None
    taps = [axis for axis in product.each if axis != vector]
    alone = all(axis in a.strides and axis not in b.strides for axis in taps)
    if not alone or not 2 <= product.size(taps) < target.registers - 2:
        return None
    folds = sorted(product.over, key=lambda axis: (product.extents[axis] > 1, -_reach(a, axis)))
    column, rest = folds[-1], folds[:-1]
    met = [{axis for axis, step in guard.terms.items() if step} for guard in product.guards]
    tied = set().union(*met).difference(taps, [column])
    if len(tied) > 1 or not tied <= set(rest) or any(len(m.intersection(folds)) > 1 for m in met):
        return None
    line = next(iter(tied), rest[-1] if rest else None)
    points = list(itertools.product(*(range(product.extents[axis]) for axis in taps)))
    lanes = fewest_lanes(product, target, vector)
    chunks = [axis for axis in rest if axis != line]
    tiling = TapTiling(a, b, vector, lanes, taps, points, column, line, chunks)
    below = [guard for guard in product.guards if line in tied and guard.terms.get(line)]
    beside = [guard for guard in product.guards if guard not in below]
    tiling.column_spans = _spans(tiling, product, column, beside)
    tiling.line_spans = _spans(tiling, product, line, below)
    return tiling


def _reach(factor: Factor, axis: Axis | None) -> int:
    return abs(factor.strides.get(axis, 0)) if axis is not None else 0


def _spans(
    tiling: TapTiling, product: Product, axis: Axis | None, guards: Sequence[Interval]
) -> list[Span]:
    """The runs of a loop in which the same taps count; those without any are left out."""
    found: list[Span] = []
    for i in range(product.extents[axis] if axis is not None else 1):
        taps = frozenset(
            number
            for number, point in enumerate(tiling.points)
            if all(_holds(guard, tiling.taps, point, axis, i) for guard in guards)
        )
        if found and found[-1].taps == taps:
            found[-1] = replace(found[-1], last=i + 1)
        else:
            found.append(Span(i, i + 1, taps))
    return [span for span in found if span.taps]


def _holds(
    guard: Interval, taps: Sequence[Axis], point: Sequence[int], axis: Axis | None, i: int
) -> bool:
    number = guard.constant + (guard.terms.get(axis, 0) * i if axis is not None else 0)
    number += sum(guard.terms.get(tap, 0) * at for tap, at in zip(taps, point, strict=True))
    return 0 <= number < guard.extent


def _sizes(like: TapTiling, product: Product, target: Target) -> Iterator[TapTiling]:
    """All that the registers hold: the sums, dy of every column, a vector of the data."""
    count = len(like.points)
    blocks = -(-product.extents[like.vector] // like.lanes)
    longest = product.extents[like.column]
    if longest > LONGEST_SUM:
        return
    for vectors in range(1, min(MOST_VECTORS, blocks) + 1):
        for columns in range(1, min(MOST_COLUMNS, longest) + 1):
            if vectors * (count + columns + 1) > target.registers:
                break
            tiling = replace(like, vectors=vectors, columns=columns)
            if vectors * _written_out(tiling) > MOST_PRODUCTS:
                continue
            lines = kept_lines(tiling, product)
            if vectors >= min(KEPT_VECTORS, blocks, target.registers // (count + 2)):
                tiling.kept = lines if _fits(lines, tiling, target) else None
            _choose_strip(tiling, product, target)
            tiling.cost = _cost(tiling, product, blocks)
            if lines is not None and tiling.kept is None:
                tiling.cost *= 1 + READ_AGAIN
            yield tiling


def _fits(kept: KeptLines | None, tiling: TapTiling, target: Target) -> bool:
    """Whether the first-level cache holds the lines that a tile would keep."""
    if kept is None:
        return False
    items = kept.slots * kept.width * tiling.vectors * tiling.lanes
    return items * ITEM_BYTES[tiling.a.buffer.dtype] <= target.l1_bytes * KEPT_PART


def _written_out(tiling: TapTiling) -> int:
    """Multiplications in the text of a tile, for each of its vectors."""
    pairs = itertools.product(tiling.line_spans, tiling.column_spans)
    widths = {
        span: sum(size for size, _ in parts(span.last - span.first, tiling.columns))
        for span in tiling.column_spans
    }
    return sum(len(line.taps & column.taps) * widths[column] for line, column in pairs)


def _choose_strip(tiling: TapTiling, product: Product, target: Target) -> None:
    """Lines of a strip, and channels: what it reads and the sums stay in the second-level cache."""
    item = ITEM_BYTES[tiling.a.buffer.dtype]
    lines = product.extents[tiling.line] if tiling.line else 1
    columns = product.extents[tiling.column]
    longest = KEPT_STRIP if tiling.kept else STRIP
    tiling.strip = even_strip(lines, max(1, longest // columns))
    blocks = -(-product.extents[tiling.vector] // tiling.lanes)
    above = tiling.step(tiling.a, tiling.line)
    window = max(tiling.offsets) // above + 1 if above > 0 else 1
    points = sum(_reach(factor, tiling.line) for factor in (tiling.a, tiling.b))
    points = (tiling.strip + window) * points // product.extents[tiling.vector]
    most = min(
        int(target.l2_bytes * CACHE_PART) // (max(points, 1) * tiling.lanes * item),
        scratch_bytes(target) // (len(tiling.points) * tiling.lanes * item),
    )
    tiles = -(-blocks // tiling.vectors)
    tiling.wide = even_strip(tiles, max(1, most // tiling.vectors)) * tiling.vectors


def _cost(tiling: TapTiling, product: Product, blocks: int) -> float:
    """Modelled time of the whole product, in slots of which a core has two a cycle."""
    lines = product.extents[tiling.line] if tiling.line else 1
    strips = -(-lines // tiling.strip)
    total = 0.0
    for vectors, count in parts(blocks, tiling.vectors):
        line_time = 0.0
        copies = vectors * tiling.kept.across if tiling.kept else 0
        for span in tiling.column_spans:
            for columns, times in parts(span.last - span.first, tiling.columns):
                taps = sorted(span.taps)
                products = vectors * columns * len(taps)
                loads = vectors * (len(tiling.met(taps, columns)) + columns)
                line_time += times * max(products, 8, loads + 2 + copies * columns)
        sums = vectors * len(tiling.points)
        total += count * (lines * (line_time + 10) + strips * (30 + 3 * sums))
    return total * product.size(tiling.chunks) * (1 + NARROW / tiling.vectors)
