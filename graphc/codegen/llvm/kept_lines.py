"""Lines of the data that windows of neighbouring lines share, kept side by side in a small block.

The windows of one line of dy lie a line below those of the line above. Read again where they lie,
the data would come from the second-level cache once more for each line of taps: pixels of many
channels are so far apart that few of them find room in the first. So a tile copies its vectors of
each line once, a line ahead of their first use, into one of a few slots that take turns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphc.codegen.llvm.product import Product
from graphc.kernel.lang import Axis

if TYPE_CHECKING:
    from graphc.codegen.llvm.tap_tiling import Span, TapTiling


@dataclass(frozen=True)
class KeptLines:
    """What is kept of a window of `count` lines.

    pixel: elements of the data from one column to the next. across: columns between windows.
    places: for each tap, the line of the window and the column where it lies. width: columns that
    windows reach. first, last: those that exist, last being past the end. lines: for each line of
    the window, the least and the largest line of dy for which it exists.
    """

    count: int
    pixel: int
    across: int
    places: tuple[tuple[int, int], ...]
    width: int
    first: int
    last: int
    lines: tuple[tuple[int, int], ...]

    @property
    def slots(self) -> int:
        """Lines that have a place: those of a window and the next one."""
        return self.count + 1


def kept_lines(tiling: TapTiling, product: Product) -> KeptLines | None:
    """What a tile may keep; None where windows share no whole lines, or reach far outside."""
    a, line, column = tiling.a, tiling.line, tiling.column
    step, down = tiling.step(a, line), tiling.step(a, column)
    steps = [a.strides[axis] for axis in tiling.taps]
    if line is None or min(step, down, *steps) <= 0 or steps.count(step) != 1:
        return None
    axis = tiling.taps[steps.index(step)]
    if not _is_shared(product, line, axis) or not _is_whole(tiling, product):
        return None
    pixel = math.gcd(down, *(other for other in steps if other != step))
    across, offsets = down // pixel, tiling.offsets
    rows = [point[tiling.taps.index(axis)] for point in tiling.points]
    places = [(row, (at - row * step) // pixel) for row, at in zip(rows, offsets, strict=True)]
    ends = [
        ((span.first * across + places[tap][1]), (span.last - 1) * across + places[tap][1])
        for span in tiling.column_spans
        for tap in span.taps
    ]
    first, last = min(low for low, _ in ends), max(high for _, high in ends) + 1
    columns = product.extents[column]
    lines = [_reach(tiling.line_spans, places, row) for row in range(product.extents[axis])]
    if first + columns * across > last or None in lines:
        return None
    width = (columns - 1) * across + max(at for _, at in places) + 1
    known = tuple(found for found in lines if found is not None)
    return KeptLines(len(known), pixel, across, tuple(places), width, first, last, known)


def _is_shared(product: Product, line: Axis, axis: Axis) -> bool:
    """Whether a line's being there depends on where it lies only."""
    guards = [g.terms for g in product.guards if g.terms.get(line) or g.terms.get(axis)]
    return all(
        terms.get(line) == terms.get(axis) and {x for x in terms if terms[x]} == {line, axis}
        for terms in guards
    )


def _is_whole(tiling: TapTiling, product: Product) -> bool:
    """Whether every line and column of dy meets some tap."""
    for spans, axis in ((tiling.line_spans, tiling.line), (tiling.column_spans, tiling.column)):
        extent = product.extents[axis] if axis is not None else 1
        ends = [0, *(span.last for span in spans)]
        if [span.first for span in spans] != ends[:-1] or ends[-1] != extent:
            return False
    return all(
        above.taps & beside.taps for above in tiling.line_spans for beside in tiling.column_spans
    )


def _reach(
    spans: Sequence[Span], places: Sequence[tuple[int, int]], row: int
) -> tuple[int, int] | None:
    """The first and the last line of dy that meet a line of the window."""
    met = [span for span in spans if any(places[tap][0] == row for tap in span.taps)]
    return (met[0].first, met[-1].last - 1) if met else None
