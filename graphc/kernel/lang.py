"""LANGUAGE 2, kernels: loops on arrays, small enough to read and to analyse.

A kernel is one nest of parallel loops (`each`) around a straight line of statements. A statement
may open loops of its own: a fold runs over its axes, a store over the axes its index needs. Softmax
over the middle axis of [2, 5, 9] as text:

    kernel softmax(x: float32[2, 5, 9], y: float32[2, 5, 9]) each o:2 i:9
      top = max c:5 x[o, c, i]
      mass = sum c:5 exp(sub(x[o, c, i], top))
      y[o, c, i] = div(exp(sub(x[o, c, i], top)), mass) for c:5

Rules that everything here relies on:
- Iterations of `each` are independent: they may run in any order and on any thread.
- Statements run in order inside one iteration. A fold's axes run in row-major order where its kind
  cares (`argmax`, `argmin`: the first of equals wins; a nan never wins). A store's own axes are
  independent, except for mode "add", which runs in row-major order of (each, its own axes) when
  its index depends on data.
- `where` guards a whole statement's iteration: nothing of it is evaluated where it is false, so an
  index may be out of bounds there.
- Index arithmetic is int64; `floordiv` and `mod` round towards minus infinity.
- A buffer is seen by logical indices; strides (elements) say how it lies in memory, so one kernel
  text serves every layout.

A **contraction** is a kernel whose one fold is a sum of a product of two loads at affine indices;
see `graphc.kernel.contraction`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from graphc.error import NetError
from graphc.ir.types import REAL, TensorType, row_major

INDEX = "int64"
BOOL = "bool"
Number = int | float | bool

# function -> (number of arguments, kind of result). "same": the arguments' common dtype.
FUNCTIONS: dict[str, tuple[int, str]] = {
    "add": (2, "same"),
    "sub": (2, "same"),
    "mul": (2, "same"),
    "div": (2, "same"),  # reals only
    "min": (2, "same"),
    "max": (2, "same"),
    "neg": (1, "same"),
    "abs": (1, "same"),
    "sign": (1, "same"),
    "floordiv": (2, "same"),  # integers only
    "mod": (2, "same"),  # integers only
    "exp": (1, "same"),
    "log": (1, "same"),
    "log1p": (1, "same"),
    "expm1": (1, "same"),
    "sqrt": (1, "same"),
    "tanh": (1, "same"),
    "sigmoid": (1, "same"),
    "pow": (2, "same"),
    "floor": (1, "same"),
    "round": (1, "same"),  # ties to even
    "lt": (2, BOOL),
    "le": (2, BOOL),
    "eq": (2, BOOL),
    "and": (2, BOOL),
    "or": (2, BOOL),
    "not": (1, BOOL),
    "select": (3, "second"),
    "cast": (1, "given"),  # real -> integer truncates and saturates, nan gives 0
    "random_bits": (3, INDEX),  # (key, stream, counter) -> 0 .. 2**16 - 1, graphc.kernel.philox
}

FoldKind = Literal["sum", "max", "min", "prod", "argmax", "argmin"]
StoreMode = Literal["set", "add"]


def _remembered_hash(thing: Any) -> int:
    """The hash of a frozen dataclass, computed once: expressions are deep, and asked often."""
    known = thing.__dict__.get("_hash")
    if known is None:
        known = hash(tuple(value for name, value in thing.__dict__.items() if name != "_hash"))
        object.__setattr__(thing, "_hash", known)
    return int(known)


@dataclass(frozen=True)
class Axis:
    """A loop 0 .. extent - 1. Names are unique inside a kernel."""

    name: str
    extent: int


@dataclass(frozen=True)
class Buffer:
    """A formal argument of a kernel: a strided array.

    `name` is unique inside the kernel, `strides` count elements.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    __hash__ = _remembered_hash

    @staticmethod
    def of(name: str, type: TensorType, strides: tuple[int, ...] | None = None) -> Buffer:
        """A buffer for a tensor type, dense row-major where no strides are given."""
        return Buffer(name, type.dtype, type.shape, strides or row_major(type.shape))


class Expr:
    """A scalar expression. Arithmetic on expressions and numbers makes calls; `<` and `<=` too."""

    dtype: str

    def __add__(self, other: Expr | Number) -> Expr:
        return call("add", self, other)

    def __radd__(self, other: Number) -> Expr:
        return call("add", other, self)

    def __sub__(self, other: Expr | Number) -> Expr:
        return call("sub", self, other)

    def __rsub__(self, other: Number) -> Expr:
        return call("sub", other, self)

    def __mul__(self, other: Expr | Number) -> Expr:
        return call("mul", self, other)

    def __rmul__(self, other: Number) -> Expr:
        return call("mul", other, self)

    def __truediv__(self, other: Expr | Number) -> Expr:
        return call("div", self, other)

    def __rtruediv__(self, other: Number) -> Expr:
        return call("div", other, self)

    def __floordiv__(self, other: Expr | Number) -> Expr:
        return call("floordiv", self, other)

    def __mod__(self, other: Expr | Number) -> Expr:
        return call("mod", self, other)

    def __neg__(self) -> Expr:
        return call("neg", self)

    def __lt__(self, other: Expr | Number) -> Expr:
        return call("lt", self, other)

    def __le__(self, other: Expr | Number) -> Expr:
        return call("le", self, other)

    def __gt__(self, other: Expr | Number) -> Expr:
        return call("lt", other, self)

    def __ge__(self, other: Expr | Number) -> Expr:
        return call("le", other, self)

    def __and__(self, other: Expr) -> Expr:
        return call("and", self, other)

    def __or__(self, other: Expr) -> Expr:
        return call("or", self, other)

    def __invert__(self) -> Expr:
        return call("not", self)

    def __bool__(self) -> bool:
        raise TypeError("an expression has no truth value while a kernel is being written")

    def children(self) -> tuple[Expr, ...]:
        """Direct parts."""
        return ()


@dataclass(frozen=True)
class Const(Expr):
    """A number of a given dtype."""

    value: Number
    dtype: str


@dataclass(frozen=True)
class Var(Expr):
    """The value of a loop variable."""

    axis: Axis
    dtype: str = INDEX


@dataclass(frozen=True)
class Local(Expr):
    """A scalar set by a Let or a Fold earlier in the same iteration."""

    name: str
    dtype: str


@dataclass(frozen=True)
class Load(Expr):
    """One element of a buffer; a uint8 or integer element is what it is, not converted."""

    buffer: Buffer
    index: tuple[Expr, ...]

    __hash__ = _remembered_hash

    @property
    def dtype(self) -> str:  # type: ignore[override]  # read only, as all of a frozen class
        return self.buffer.dtype

    def children(self) -> tuple[Expr, ...]:
        return self.index


@dataclass(frozen=True)
class Call(Expr):
    """A function of FUNCTIONS on scalars."""

    function: str
    args: tuple[Expr, ...]
    dtype: str

    __hash__ = _remembered_hash

    def children(self) -> tuple[Expr, ...]:
        return self.args


def constant(value: Number, dtype: str) -> Const:
    """A number as a constant of `dtype`, normalised so that equal constants compare equal."""
    if dtype == BOOL:
        return Const(bool(value), dtype)
    return Const(float(value) if dtype in REAL else int(value), dtype)


def call(function: str, *args: Expr | Number, dtype: str = "") -> Expr:
    """Apply a function; plain numbers take the dtype of the expressions beside them.

    Raises NetError where dtypes differ or the function is unknown: an operator's author erred.
    Index arithmetic on constants is folded, and x + 0, x * 1, x * 0 of integers are simplified.
    """
    if function not in FUNCTIONS:
        raise NetError(f"kernels have no function '{function}'")
    count, result = FUNCTIONS[function]
    if len(args) != count:
        raise NetError(f"'{function}' takes {count} arguments, not {len(args)}")
    typed = [a for a in args if isinstance(a, Expr)]
    if function == "select":
        typed = [a for a in args[1:] if isinstance(a, Expr)]
    common = typed[0].dtype if typed else (dtype or "float32")
    exprs = tuple(
        a if isinstance(a, Expr) else constant(a, BOOL if isinstance(a, bool) else common)
        for a in args
    )
    checked = exprs[1:] if function == "select" else exprs
    if function not in ("cast",) and any(a.dtype != checked[0].dtype for a in checked):
        shown = ", ".join(a.dtype for a in checked)
        raise NetError(f"'{function}' mixes dtypes: {shown}")
    kind = {"same": exprs[0].dtype, "second": exprs[-1].dtype, "given": dtype}.get(result, result)
    return simplified(Call(function, exprs, kind))


def simplified(expr: Call) -> Expr:
    """Fold integer arithmetic; floats are left exactly as written."""
    if expr.dtype != INDEX or expr.function not in ("add", "sub", "mul", "floordiv", "mod"):
        return expr
    left, right = expr.args
    if isinstance(left, Const) and isinstance(right, Const):
        a, b = int(left.value), int(right.value)
        if expr.function in ("floordiv", "mod") and b == 0:
            raise NetError("an index is divided by zero")
        folded = {
            "add": lambda: a + b,
            "sub": lambda: a - b,
            "mul": lambda: a * b,
            "floordiv": lambda: a // b,
            "mod": lambda: a % b,
        }[expr.function]()
        return Const(folded, INDEX)
    zero, one = Const(0, INDEX), Const(1, INDEX)
    if expr.function == "add" and left == zero:
        return right
    if expr.function in ("add", "sub") and right == zero:
        return left
    if expr.function == "mul" and zero in (left, right):
        return zero
    if expr.function == "mul" and left == one:
        return right
    if expr.function in ("mul", "floordiv") and right == one:
        return left
    if expr.function == "mod" and right == one:
        return zero
    return expr


# -- statements -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Let:
    """local = value; the value may use `each` variables and earlier locals."""

    local: Local
    value: Expr


@dataclass(frozen=True)
class Fold:
    """Reduce over `axes`.

    sum, max, min, prod: every (local, value) pair is reduced by itself; they share one sweep.
    argmax, argmin: locals are (best, companion); `values` are (key, companion): the companion of
    the first iteration whose key is strictly better. Empty sums are 0, empty products 1; an empty
    max is -inf, an empty min +inf, an empty argmax (-inf, 0).
    """

    kind: FoldKind
    locals: tuple[Local, ...]
    values: tuple[Expr, ...]
    axes: tuple[Axis, ...]
    where: Expr | None = None


@dataclass(frozen=True)
class Store:
    """buffer[index] = value (or += value) for every point of `axes`, the store's own loops."""

    buffer: Buffer
    index: tuple[Expr, ...]
    value: Expr
    axes: tuple[Axis, ...] = ()
    where: Expr | None = None
    mode: StoreMode = "set"


@dataclass(frozen=True)
class Check:
    """`condition` must hold; where it does not, the call reports `message` with the number `value`.

    Nothing is skipped: later statements must be safe whatever the outcome (indices are clamped).
    """

    condition: Expr
    message: str
    value: Expr


Statement = Let | Fold | Store | Check


@dataclass(frozen=True)
class Winograd:
    """That a kernel, a convolution, may be run as F(tile x tile) (graphc.kernel.winograd).

    work: its output that is only memory to work in: rows that run apart, of which each uses one.
    filters: its input that holds the weights transformed; the body reads the plain ones. None: it
    is the weights' gradient (graphc.kernel.winograd_gradient).
    """

    tile: int
    work: str
    filters: str | None = None


@dataclass(frozen=True, repr=False)
class Kernel:
    """A whole kernel: inputs and outputs are the buffers in the order of the call's arguments.

    The body says what is computed; `winograd`, where it is set, another way to get there. `unread`
    names outputs that nothing else in the program reads (graphc.plan.unread).
    """

    name: str
    inputs: tuple[Buffer, ...]
    outputs: tuple[Buffer, ...]
    each: tuple[Axis, ...]
    body: tuple[Statement, ...]
    winograd: Winograd | None = None
    unread: tuple[str, ...] = ()

    __hash__ = _remembered_hash

    def __repr__(self) -> str:
        """Short: `graphc.kernel.text` prints the whole."""
        return f"<Kernel '{self.name}': {len(self.inputs)} inputs, {len(self.outputs)} outputs>"

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """Formal arguments, in order."""
        return self.inputs + self.outputs

    def free_name(self, *beside: str) -> str:
        """The name for one buffer more: the first of a0, a1, ... that is neither here nor given."""
        taken = {*(buffer.name for buffer in self.buffers), *beside}
        return next(name for n in range(len(taken) + 1) if (name := f"a{n}") not in taken)
