"""The words operators write kernels in.

A kernel method gets a Writer `k` and one Array per input and output, and reads like the formula:

    def kernel(self, k, x, label, y):
        o, i = k.each(outer, inner)              # parallel loops around everything that follows
        c = k.axis(classes)                      # a loop variable for folds and stores
        top = k.max(c, x[o, c, i])               # a fold: a scalar
        mass = k.sum(c, k.exp(x[o, c, i] - top))
        y[o, c, i] = k.exp(x[o, c, i] - top) / mass      # free axes of a store become its loops

Nothing runs here: reading an array makes a Load, assigning one a Store.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.error import NetError, need
from graphc.ir.op import Op
from graphc.ir.types import REAL, TensorType
from graphc.kernel.lang import (
    INDEX,
    Axis,
    Buffer,
    Check,
    Const,
    Expr,
    Fold,
    FoldKind,
    Kernel,
    Let,
    Load,
    Local,
    Number,
    Statement,
    Store,
    StoreMode,
    Var,
    call,
    constant,
)
from graphc.kernel.walk import axes_of, statement_exprs

Index = Expr | int
Axes = Var | Sequence[Var]


class Array:
    """A buffer as an operator's author sees it."""

    def __init__(self, writer: Writer, buffer: Buffer):
        self.writer = writer
        self.buffer = buffer
        self.shape = buffer.shape
        self.dtype = buffer.dtype

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def __getitem__(self, index: Index | tuple[Index, ...]) -> Expr:
        return Load(self.buffer, self._index(index))

    def __setitem__(self, index: Index | tuple[Index, ...], value: Expr | Number) -> None:
        self.writer.store(self, index, value)

    def _index(self, index: Index | tuple[Index, ...]) -> tuple[Expr, ...]:
        parts = index if isinstance(index, tuple) else (index,)
        need(
            len(parts) == self.rank,
            f"kernel '{self.writer.name}': {self.buffer.name} has {self.rank} axes,"
            f" an index has {len(parts)}",
        )
        return tuple(p if isinstance(p, Expr) else Const(int(p), INDEX) for p in parts)


class Writer:
    """Collects the statements of one kernel."""

    def __init__(self, name: str):
        self.name = name
        self._each: list[Axis] = []
        self._body: list[Statement] = []
        self._axes = 0
        self._locals = 0

    # -- loops --

    def each(self, *extents: int) -> list[Var]:
        """Parallel loops around the whole kernel; one index variable per extent (always a list)."""
        variables = [self.axis(extent, "i") for extent in extents]
        self._each.extend(v.axis for v in variables)
        return variables

    def axis(self, extent: int, prefix: str = "r") -> Var:
        """A variable for folds and stores to run over."""
        need(extent >= 0, f"kernel '{self.name}': a loop cannot have extent {extent}")
        self._axes += 1
        return Var(Axis(f"{prefix}{self._axes}", int(extent)))

    def axes(self, *extents: int) -> list[Var]:
        """Several at once."""
        return [self.axis(extent) for extent in extents]

    # -- folds --

    def sum(self, axes: Axes, value: Expr, where: Expr | None = None) -> Local:
        """Sum of `value` over `axes` where `where` holds; 0 if that is nowhere."""
        return self._fold("sum", axes, (value,), where)[0]

    def max(self, axes: Axes, value: Expr, where: Expr | None = None) -> Local:
        """Largest `value`; -inf if there is none."""
        return self._fold("max", axes, (value,), where)[0]

    def min(self, axes: Axes, value: Expr, where: Expr | None = None) -> Local:
        """Smallest `value`; inf if there is none."""
        return self._fold("min", axes, (value,), where)[0]

    def product(self, axes: Axes, value: Expr, where: Expr | None = None) -> Local:
        """Product of `value`; 1 if there is none."""
        return self._fold("prod", axes, (value,), where)[0]

    def argmax(
        self, axes: Axes, key: Expr, companion: Expr, where: Expr | None = None
    ) -> tuple[Local, Local]:
        """The largest key and its companion; the first of equals."""
        best, found = self._fold("argmax", axes, (key, companion), where)
        return best, found

    def argmin(
        self, axes: Axes, key: Expr, companion: Expr, where: Expr | None = None
    ) -> tuple[Local, Local]:
        """The smallest key and its companion; the first of equals."""
        best, found = self._fold("argmin", axes, (key, companion), where)
        return best, found

    def _fold(
        self, kind: FoldKind, axes: Axes, values: tuple[Expr, ...], where: Expr | None
    ) -> tuple[Local, ...]:
        over = tuple(v.axis for v in ([axes] if isinstance(axes, Var) else axes))
        results = tuple(self._local(v.dtype) for v in values)
        self._body.append(Fold(kind, results, values, over, where))
        return results

    def _local(self, dtype: str) -> Local:
        self._locals += 1
        return Local(f"t{self._locals}", dtype)

    # -- statements --

    def let(self, value: Expr) -> Local:
        """Name a scalar that is used more than once."""
        local = self._local(value.dtype)
        self._body.append(Let(local, value))
        return local

    def store(
        self,
        array: Array,
        index: Index | tuple[Index, ...],
        value: Expr | Number,
        where: Expr | None = None,
        mode: StoreMode = "set",
    ) -> None:
        """array[index] = value; free loop variables of the index and value become its loops."""
        place = array._index(index)
        if not isinstance(value, Expr):
            value = self.number(value, array.dtype)
        need(
            value.dtype == array.dtype,
            f"kernel '{self.name}': {array.buffer.name} holds {array.dtype}, not {value.dtype}",
        )
        used: set[Axis] = set()
        for part in (*place, value, *(() if where is None else (where,))):
            used |= axes_of(part)
        own = sorted(used - set(self._each), key=lambda axis: int(axis.name[1:]))
        self._body.append(Store(array.buffer, place, value, tuple(own), where, mode))

    def add(self, array: Array, index: Index | tuple[Index, ...], value: Expr) -> None:
        """array[index] += value, in order where the index depends on data."""
        self.store(array, index, value, mode="add")

    def check(self, condition: Expr, message: str, value: Expr) -> None:
        """Make the call fail with `message` and the number where `condition` does not hold."""
        self._body.append(Check(condition, message, value))

    def index(self, value: Expr, extent: int, what: str) -> Expr:
        """A class index from a real: truncated, checked against 0 .. extent - 1, clamped."""
        whole = self.let(self.cast(value, INDEX) if value.dtype != INDEX else value)
        inside = (whole >= 0) & (whole < extent)
        if value.dtype in REAL:
            inside = inside & call("eq", value, value)  # false for nan, which the cast makes 0
        self.check(inside, f"{what} is not within 0 .. {extent - 1}", whole)
        return self.let(call("min", call("max", whole, 0), extent - 1))

    # -- scalars --

    def number(self, value: Number, dtype: str) -> Expr:
        """A constant."""
        return constant(value, dtype)

    def cast(self, value: Expr, dtype: str) -> Expr:
        """Convert; a real becomes an integer by truncation, saturating, nan as 0."""
        return value if value.dtype == dtype else call("cast", value, dtype=dtype)

    def select(self, condition: Expr, yes: Expr | Number, no: Expr | Number) -> Expr:
        """yes where the condition holds, else no; both sides are evaluated."""
        return call("select", condition, yes, no)

    def equal(self, left: Expr | Number, right: Expr | Number) -> Expr:
        """left == right."""
        return call("eq", left, right)

    def within(self, index: Expr, extent: int) -> Expr:
        """0 <= index < extent."""
        return (index >= 0) & (index < extent)

    def maximum(self, left: Expr | Number, right: Expr | Number) -> Expr:
        """The larger of two scalars."""
        return call("max", left, right)

    def minimum(self, left: Expr | Number, right: Expr | Number) -> Expr:
        """The smaller of two scalars."""
        return call("min", left, right)

    def power(self, base: Expr, exponent: Expr | Number) -> Expr:
        """base ** exponent."""
        return call("pow", base, exponent)

    def random_bits(self, key: Expr, stream: int, counter: Expr) -> Expr:
        """16 random bits as an integer, a pure function of its arguments."""
        return call("random_bits", key, stream, counter)

    def exp(self, x: Expr) -> Expr:
        """e ** x."""
        return call("exp", x)

    def log(self, x: Expr) -> Expr:
        """Natural logarithm."""
        return call("log", x)

    def log1p(self, x: Expr) -> Expr:
        """log(1 + x), right near 0."""
        return call("log1p", x)

    def expm1(self, x: Expr) -> Expr:
        """e ** x - 1, right near 0."""
        return call("expm1", x)

    def sqrt(self, x: Expr) -> Expr:
        """Square root."""
        return call("sqrt", x)

    def tanh(self, x: Expr) -> Expr:
        """Hyperbolic tangent."""
        return call("tanh", x)

    def sigmoid(self, x: Expr) -> Expr:
        """1 / (1 + e ** -x)."""
        return call("sigmoid", x)

    def abs(self, x: Expr) -> Expr:
        """Magnitude."""
        return call("abs", x)

    def sign(self, x: Expr) -> Expr:
        """-1, 0 or 1."""
        return call("sign", x)

    def floor(self, x: Expr) -> Expr:
        """The next whole number below."""
        return call("floor", x)

    # -- result --

    def finish(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> Kernel:
        """The kernel. Raises NetError where an axis is used that nothing runs over."""
        kernel = Kernel(
            self.name, tuple(inputs), tuple(outputs), tuple(self._each), tuple(self._body)
        )
        for statement in kernel.body:
            own = set(getattr(statement, "axes", ()))
            for expr in statement_exprs(statement):
                free = axes_of(expr) - own - set(kernel.each)
                if free:
                    names = ", ".join(sorted(axis.name for axis in free))
                    raise NetError(f"kernel '{self.name}' uses {names} outside a fold or store")
        return kernel


def kernel_of(
    op: Op,
    inputs: Sequence[TensorType],
    outputs: Sequence[TensorType],
    strides: Sequence[tuple[int, ...] | None] | None = None,
) -> Kernel:
    """An operator's kernel for given types; `strides` of inputs, then outputs; None: row-major."""
    types = [*inputs, *outputs]
    layouts = list(strides) if strides is not None else [None] * len(types)
    buffers = [
        Buffer.of(f"a{position}", type, layout)
        for position, (type, layout) in enumerate(zip(types, layouts, strict=True))
    ]
    writer = Writer(op.op_name)
    op.kernel(writer, *(Array(writer, buffer) for buffer in buffers))
    return writer.finish(buffers[: len(inputs)], buffers[len(inputs) :])
