"""Loads and stores of one element or of lanes: a row of neighbours, or scattered ones, masked."""

from __future__ import annotations

from dataclasses import dataclass

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.lanes import SUFFIXES, TYPES
from graphc.codegen.llvm.loops import INT1, INT32, VOID, whole
from graphc.codegen.llvm.math import VectorMath
from graphc.ir.types import DTYPES


@dataclass(frozen=True)
class Lanes:
    """Where elements of a type lie in memory, and which of them exist.

    place: a pointer, or a vector of them where form is "scattered". form: "one" element, a "row"
    of neighbours from the place on, or "scattered" ones. mask: the lanes to touch; None for all.
    """

    place: ir.Value
    form: str
    dtype: str
    count: int
    mask: ir.Value | None = None

    @property
    def align(self) -> int:
        """Bytes at a multiple of which each element lies."""
        return DTYPES[self.dtype]

    def load(self, math: VectorMath) -> ir.Value:
        """The elements; 0 in lanes that the mask excludes, which are not touched."""
        if self.form == "one":
            return math.builder.load(self.place, typ=TYPES[self.dtype], align=self.align)
        type_ = ir.VectorType(TYPES[self.dtype], self.count)
        if self.form == "row" and self.mask is None:
            return math.builder.load(self.place, typ=type_, align=self.align)
        name = self._masked("load", "gather")
        align = ir.Constant(INT32, self.align)
        nothing = math.constant(0, type_)
        return math.intrinsic(name, type_, self.place, align, self._all_or_some(math), nothing)

    def store(self, math: VectorMath, value: ir.Value, streamed: bool) -> None:
        """Store elements; `streamed` lets whole rows at multiples of a register pass the caches."""
        builder = math.builder
        if self.form == "one" or (self.form == "row" and self.mask is None):
            if self.form == "row" and streamed:
                self._stream(math, value)
            else:
                builder.store(value, self.place, align=self.align)
        elif self.form == "row" and self._is_only_the_first():
            # Not by a mask: LLVM 22 then stores an element as wide as what it was narrowed from.
            first = builder.extract_element(value, ir.Constant(INT32, 0))
            builder.store(first, self.place, align=self.align)
        else:
            name = self._masked("store", "scatter")
            align = ir.Constant(INT32, self.align)
            math.intrinsic(name, VOID, value, self.place, align, self._all_or_some(math))

    def _stream(self, math: VectorMath, value: ir.Value) -> None:
        """Store register by register, the first place first: memory takes lines best in order.

        Of one wide store LLVM makes as many, but in any order.
        """
        b = math.builder
        wide = min(self.count, math.target.vector_bytes // self.align)
        for first in range(0, self.count, wide):
            order = list(range(first, first + wide))
            part = b.shuffle_vector(value, value, ir.Constant(ir.VectorType(INT32, wide), order))
            place = b.gep(self.place, [whole(first)], source_etype=TYPES[self.dtype])
            b.store(part, place, align=self.align * wide, past_caches=True)

    def _masked(self, of_a_row: str, of_scattered: str) -> str:
        kind, pointers = (
            (of_a_row, "p0") if self.form == "row" else (of_scattered, f"v{self.count}p0")
        )
        return f"llvm.masked.{kind}.v{self.count}{SUFFIXES[self.dtype]}.{pointers}"

    def _is_only_the_first(self) -> bool:
        """Whether the mask is known to hold for the first lane alone."""
        if not isinstance(self.mask, ir.Constant) or not isinstance(self.mask.constant, list):
            return False
        return self.mask.constant == [1] + [0] * (self.count - 1)

    def _all_or_some(self, math: VectorMath) -> ir.Value:
        return math.constant(1, ir.VectorType(INT1, self.count)) if self.mask is None else self.mask
