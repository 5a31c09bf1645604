"""Strips are copied to scratch memory one ahead: while one is computed, the next one's rows come.

Where rows lie a power of two apart, all of them fall into few sets of the caches. What is fetched
of the next strip into its own lines pushes itself out before it is used. So it is loaded, fetched
some rows ahead, and stored in the other half of an array that is twice as long.
"""

from __future__ import annotations

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.kept import KeptArrays, Slot
from graphc.codegen.llvm.lanes import CACHE_LINE, TYPES
from graphc.codegen.llvm.loops import Carry, Count, whole
from graphc.codegen.llvm.vector import Values
from graphc.ir.types import DTYPES

ROWS_AHEAD = 24  # so long memory takes where all of a core's requests wait for it


class NextStrip:
    """For a loop over strips of positions from `first` to before `stop`."""

    def __init__(self, values: Values, arrays: KeptArrays, slot: Slot, extent: int):
        assert slot.source.address is not None and arrays.kept.axis is not None
        self.values = values
        self.arrays = arrays
        self.slot = slot
        self.address = slot.source.address
        self.axis = arrays.kept.axis
        self.extent = extent
        self.first: Count = 0
        self.stop: Count = 0

    def begin(self) -> None:
        """Before a strip: if it is the first, none before it has copied it."""
        v, b = self.values, self.values.builder
        assert v.axis is not None
        is_first = b.icmp_signed("==", v.places[v.axis][1], whole(self.first))

        def row(number: ir.Value, carry: Carry) -> Carry:
            with v.at_axis(self.axis, number):
                self._copy(whole(0), turned=False)
            return carry

        v.frame.guard(is_first, [], lambda c: v.frame.loop(0, self.extent, 1, c, row))

    def row(self) -> None:
        """Copy a row of the next strip; where there is none, that of this strip again."""
        distance = self._distance()
        self._fetch(distance)
        self._copy(distance, turned=True)

    def _distance(self) -> ir.Value:
        """Elements from this strip to the next: 0 where that is not whole."""
        v, b = self.values, self.values.builder
        assert v.axis is not None
        level, here = v.places[v.axis]

        def make() -> ir.Value:
            end = b.add(here, whole(2 * v.lanes))
            is_whole = b.icmp_signed("<=", end, whole(self.stop))
            return b.select(is_whole, whole(v.lanes), whole(0))

        return v.frame.remembered(level, ("next strip", v.lanes), make)

    def _fetch(self, distance: ir.Value) -> None:
        """Fetch the row that is copied some rows later, perhaps in the strip after the next."""
        v, b = self.values, self.values.builder
        step = self.address.terms[self.axis]
        ahead = whole(ROWS_AHEAD * step)
        if self.extent > ROWS_AHEAD:
            left = b.icmp_signed("<", v.places[self.axis][1], whole(self.extent - ROWS_AHEAD))
            ahead = b.select(left, ahead, whole((ROWS_AHEAD - self.extent) * step + v.lanes))
        else:
            ahead = whole(v.lanes)
        place, _ = v.place(self.address)
        element, size = TYPES[self.slot.source.dtype], DTYPES[self.slot.source.dtype]
        there = b.gep(place, [b.add(distance, ahead)], source_etype=element)
        for first in range(0, v.lanes, CACHE_LINE // size):
            v.fetch(b.gep(there, [whole(first)], source_etype=element))

    def _copy(self, distance: ir.Value, turned: bool) -> None:
        v, b = self.values, self.values.builder
        dtype = self.slot.source.dtype
        place, _ = v.place(self.address)
        there = b.gep(place, [distance], source_etype=TYPES[dtype])
        type_ = ir.VectorType(TYPES[dtype], v.lanes)
        loaded = b.load(there, typ=type_, align=DTYPES[dtype])
        self.arrays.store(self.slot, loaded, v, turned)
