"""Where the operands of a product lie, and loads of their elements: what all tiles share."""

from __future__ import annotations

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.lanes import first_lane
from graphc.codegen.llvm.loops import INT1, INT32, VOID, Count, Frame, whole
from graphc.codegen.llvm.product import Factor
from graphc.codegen.llvm.target import ITEM_BYTES
from graphc.codegen.llvm.vector import SUFFIXES, TYPES, Values
from graphc.kernel.lang import Axis

LINE_BYTES = 64


class Operands:
    """Places and vectors of `lanes` elements of one real dtype, emitted where the frame stands."""

    def __init__(self, frame: Frame, values: Values, dtype: str, lanes: int):
        self.frame = frame
        self.values = values
        self.builder = frame.builder
        self.math = values.math
        self.lanes = lanes
        self.suffix = SUFFIXES[dtype]
        self.element = TYPES[dtype]
        self.item = ITEM_BYTES[dtype]
        self.type = ir.VectorType(self.element, lanes) if lanes > 1 else self.element
        self.zero = self.math.constant(0.0, self.type)

    def start(self, factor: Factor) -> ir.Value:
        """The factor's first element."""
        return self.moved(self.values.bases[factor.buffer.name], factor.constant)

    def moved(self, place: ir.Value, items: Count) -> ir.Value:
        """`items` elements on."""
        if isinstance(items, int) and items == 0:
            return place
        return self.builder.gep(place, [whole(items)], source_etype=self.element)

    def along(self, place: ir.Value, factor: Factor, axis: Axis | None, value: Count) -> ir.Value:
        """`value` steps on along an axis; whole vectors on where lanes are spread along it."""
        spread = factor.spread
        if spread is not None and axis == spread.axis:
            groups = self.builder.udiv(whole(value), whole(spread.size))
            return self.moved(place, self.builder.mul(groups, whole(spread.outer)))
        stride = factor.strides.get(axis, 0) if axis is not None else 0
        if isinstance(value, int):
            return self.moved(place, value * stride)
        if stride == 0:
            return place
        return self.moved(place, value if stride == 1 else self.builder.mul(value, whole(stride)))

    def load(self, place: ir.Value, tail: Count | None = None) -> ir.Value:
        """A vector; only the first `tail` elements of it, where that is not None, the others 0."""
        if tail is None:
            return self.builder.load(place, typ=self.type, align=self.item)
        name = f"llvm.masked.load.v{self.lanes}{self.suffix}.p0"
        align = ir.Constant(INT32, self.item)
        return self.math.intrinsic(name, self.type, place, align, self._first(tail), self.zero)

    def _first(self, count: Count) -> ir.Value:
        """A mask of the first `count` lanes."""
        lanes = range(self.lanes)
        if isinstance(count, int):
            return ir.Constant(ir.VectorType(INT1, self.lanes), [int(x < count) for x in lanes])
        numbers = ir.Constant(ir.VectorType(INT32, self.lanes), list(lanes))
        limit = self.splat(self.builder.trunc(count, INT32))
        return self.builder.icmp_signed("<", numbers, limit)

    def store(self, value: ir.Value, place: ir.Value) -> None:
        """A whole vector."""
        self.builder.store(value, place, align=self.item)

    def everywhere(self, place: ir.Value) -> ir.Value:
        """One element in all lanes."""
        scalar = self.builder.load(place, typ=self.element, align=self.item)
        return scalar if self.lanes == 1 else self.splat(scalar)

    def splat(self, scalar: ir.Value) -> ir.Value:
        """A number in all lanes."""
        b, nothing = self.builder, ir.Constant(ir.VectorType(scalar.type, self.lanes), ir.Undefined)
        lane = b.insert_element(nothing, scalar, ir.Constant(INT32, 0))
        return b.shuffle_vector(lane, nothing, first_lane(self.lanes))

    def fetch(self, place: ir.Value, level: int = 2) -> None:
        """Ask for a line, into the cache of that level. Any address will do, mapped or not."""
        hints = [ir.Constant(INT32, hint) for hint in (0, 4 - level, 1)]
        self.math.intrinsic("llvm.prefetch.p0", VOID, place, *hints)

    def smaller(self, left: ir.Value, right: Count) -> ir.Value:
        """The smaller of two int64."""
        return self.math.intrinsic("llvm.smin.i64", left.type, left, whole(right))

    def larger(self, left: ir.Value, right: Count) -> ir.Value:
        """The larger of two int64."""
        return self.math.intrinsic("llvm.smax.i64", left.type, left, whole(right))
