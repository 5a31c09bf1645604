"""Contractions: sums of a product of two loads at affine indices, found in a kernel.

Convolution, deconvolution, inner product and all their gradients are kernels whose one fold is

    t = sum over (k...) of a[indices] * b[indices]   where all indices lie inside, and divide

and whose stores are the epilogue on t (bias, ReLU, the add of another gradient). An index of `a`
or `b` is `affine / divisor`: a divisor above 1 means that only multiples count (the data gradient
of a strided convolution). `match` reads this form off a kernel; code generation gives it a tiled
schedule, the plan asks which operand would like another layout.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice

from graphc.kernel.affine import Affine, affine, bounds
from graphc.kernel.lang import (
    INDEX,
    Axis,
    Buffer,
    Call,
    Const,
    Expr,
    Fold,
    Kernel,
    Let,
    Load,
    Local,
    Store,
)
from graphc.kernel.walk import rebuild, walk

# A deep net has about a thousand kernels, and every stage of planning asks about each of them.
KERNELS_REMEMBERED = 4096


@dataclass(frozen=True)
class Position:
    """One index of an operand: affine / divisor, counted only where exact and inside the buffer."""

    affine: Affine
    divisor: int = 1
    guarded: bool = False  # may leave 0 .. extent - 1, or the quotient may be inexact


@dataclass(frozen=True)
class Operand:
    """A factor of the product."""

    buffer: Buffer
    index: tuple[Position, ...]

    @property
    def constant(self) -> int:
        """The element read where all loops are at 0, where every index has divisor 1."""
        pairs = zip(self.index, self.buffer.strides, strict=True)
        return sum(position.affine.constant * stride for position, stride in pairs)

    def stride(self, axis: Axis) -> int:
        """Elements between neighbours along `axis`, where every index using it has divisor 1."""
        return sum(
            position.affine.coefficient(axis) * stride
            for position, stride in zip(self.index, self.buffer.strides, strict=True)
        )


@dataclass(frozen=True)
class Contraction:
    """The parts of a kernel that is one: `fold` and the `stores` after it (the epilogue).

    Generated code must compute the values of all stores of an element before it stores the first:
    each may lie where another one's value comes from.
    """

    kernel: Kernel
    left: Operand
    right: Operand
    each: tuple[Axis, ...]
    over: tuple[Axis, ...]
    fold: Fold
    stores: tuple[Store, ...]

    @property
    def scheduled(self) -> Kernel:
        """The fold and the stores, without locals between."""
        return replace(self.kernel, body=(self.fold, *self.stores))


@lru_cache(KERNELS_REMEMBERED)
def match(kernel: Kernel) -> Contraction | None:
    """The contraction that `kernel` is, or None.

    It is one where its body is a sum of `mul(a[...], b[...])`, then stores without guards or loops
    of their own, with Lets between that can be written into the stores; and where the fold's guard
    says no more and no less than that all indices lie inside their buffers and divide.
    """
    if not kernel.body or not isinstance(kernel.body[0], Fold):
        return None
    fold = kernel.body[0]
    if fold.kind != "sum" or len(fold.values) != 1 or not fold.axes:
        return None
    if any(axis.extent == 0 for axis in (*kernel.each, *fold.axes)):
        return None
    product = fold.values[0]
    if not isinstance(product, Call) or product.function != "mul":
        return None
    left, right = product.args
    if not isinstance(left, Load) or not isinstance(right, Load):
        return None
    if left.buffer in kernel.outputs or right.buffer in kernel.outputs:
        return None
    if left == right:
        return None  # a sum of squares: nothing is used twice, so a tile has nothing to gain
    stores = _epilogue(kernel)
    operands = _operands(left, right, fold.where)
    if stores is None or operands is None:
        return None
    return Contraction(kernel, *operands, kernel.each, fold.axes, fold, stores)


# A value that is used twice is written out twice; past this many parts Lets are the better text.
_LONGEST = 500


# -- the epilogue ---------------------------------------------------------------------------------


def _epilogue(kernel: Kernel) -> tuple[Store, ...] | None:
    """The stores after the fold, Lets written into them."""
    inlined: dict[Expr, Expr] = {}
    stores: list[Store] = []
    for statement in kernel.body[1:]:
        if isinstance(statement, Let):
            value = rebuild(statement.value, inlined)
            if any(
                isinstance(part, Load) and part.buffer in kernel.outputs for part in walk(value)
            ):
                return None  # it would be read later than it is now
            inlined[statement.local] = value
        elif isinstance(statement, Store) and not statement.axes and statement.where is None:
            index = tuple(rebuild(i, inlined) for i in statement.index)
            stores.append(replace(statement, index=index, value=rebuild(statement.value, inlined)))
        else:
            return None
    if any(len(list(islice(walk(s.value), _LONGEST + 1))) > _LONGEST for s in stores):
        return None
    if any(isinstance(part, Local) for s in stores for i in s.index for part in walk(i)):
        return None  # where it is stored may not depend on the sum
    return tuple(stores) if stores else None


# -- indices and their guards ---------------------------------------------------------------------

# An affine form without the order of its terms, and the divisor: what guards are compared by.
_Shape = tuple[frozenset[tuple[Axis, int]], int, int]


def _quotient(expr: Expr) -> tuple[Affine, int] | None:
    """(affine, divisor) of an index; a division that is exact for all terms is carried out."""
    divisor = 1
    if isinstance(expr, Call) and expr.function == "floordiv":
        expr, by = expr.args
        if not isinstance(by, Const) or int(by.value) <= 0:
            return None
        divisor = int(by.value)
    form = affine(expr)
    if form is None:
        return None
    if all(number % divisor == 0 for number in (form.constant, *(c for _, c in form.terms))):
        terms = tuple((axis, c // divisor) for axis, c in form.terms)
        return Affine(terms, form.constant // divisor), 1
    return form, divisor


def _shape(form: Affine, divisor: int) -> _Shape:
    return frozenset(form.terms), form.constant, divisor


@dataclass
class _Guards:
    """What a fold's guard says: index >= 0, index < bound, index divides."""

    low: set[_Shape]
    high: dict[_Shape, int]
    exact: set[_Shape]


def _conjuncts(where: Expr | None) -> list[Expr]:
    if where is None:
        return []
    if isinstance(where, Call) and where.function == "and":
        return _conjuncts(where.args[0]) + _conjuncts(where.args[1])
    return [where]


def _guards(where: Expr | None) -> _Guards | None:
    found = _Guards(set(), {}, set())
    for part in _conjuncts(where):
        if part == Const(True, "bool"):
            continue
        if not isinstance(part, Call) or part.function not in ("le", "lt", "eq"):
            return None
        if all(isinstance(a, Const) for a in part.args):
            if not _holds(part):
                return None
            continue
        if part.function == "eq":
            shape = _divides(part)
            if shape is None:
                return None
            found.exact.add(shape)
            continue
        first, second = part.args
        if isinstance(first, Const):
            form, floor = _quotient(second), int(first.value) + (part.function == "lt")
            if form is None or floor != 0 or first.dtype != INDEX:
                return None
            found.low.add(_shape(*form))
        else:
            form = _quotient(first)
            if form is None or not isinstance(second, Const):
                return None
            bound = int(second.value) + (part.function == "le")
            shape = _shape(*form)
            found.high[shape] = min(bound, found.high.get(shape, bound))
    return found


def _holds(part: Call) -> bool:
    """A comparison of two constants, left from a division by 1."""
    left, right = (a.value for a in part.args if isinstance(a, Const))
    return {"le": left <= right, "lt": left < right, "eq": left == right}[part.function]


def _divides(part: Call) -> _Shape | None:
    """The quotient that `mod(form, divisor) == 0` is about."""
    rest, zero = part.args
    if zero != Const(0, INDEX) or not isinstance(rest, Call) or rest.function != "mod":
        return None
    form, by = affine(rest.args[0]), rest.args[1]
    if form is None or not isinstance(by, Const) or int(by.value) <= 0:
        return None
    return _shape(form, int(by.value))


def _operands(left: Load, right: Load, where: Expr | None) -> tuple[Operand, Operand] | None:
    guards = _guards(where)
    if guards is None:
        return None
    loads = [(load, [_quotient(i) for i in load.index]) for load in (left, right)]
    extents: dict[_Shape, set[int]] = {}
    for load, quotients in loads:
        for quotient, extent in zip(quotients, load.buffer.shape, strict=True):
            if quotient is None:
                return None
            extents.setdefault(_shape(*quotient), set()).add(extent)
    if not _say_no_more(guards, extents):
        return None
    operands = []
    for load, quotients in loads:
        positions = [
            _position(quotient, extent, guards)
            for quotient, extent in zip(quotients, load.buffer.shape, strict=True)
            if quotient is not None
        ]
        whole = tuple(p for p in positions if p is not None)
        if len(whole) < len(positions):
            return None
        operands.append(Operand(load.buffer, whole))
    return operands[0], operands[1]


def _say_no_more(guards: _Guards, extents: dict[_Shape, set[int]]) -> bool:
    """Whether every guard follows from some index being inside its buffer and exact.

    A test of the numerator says the same as one of the exact quotient: n >= 0 as n / d >= 0, and
    n < b as n / d < b / d rounded up.
    """

    def about(shape: _Shape) -> list[_Shape]:
        terms, constant, divisor = shape
        return [s for s in extents if s == shape or (s[:2] == (terms, constant) and divisor == 1)]

    for shape in list(guards.low):
        found = about(shape)
        if not found and _range(shape)[0] < 0:
            return False
        guards.low.update(found)
    for shape, bound in list(guards.high.items()):
        found = [s for s in about(shape) if _inner(bound, shape, s) in extents[s]]
        if not found and _range(shape)[1] >= bound:
            return False
        for same in found:
            inner = _inner(bound, shape, same)
            guards.high[same] = min(inner, guards.high.get(same, inner))
    return all(shape in extents or _exact(shape) for shape in guards.exact)


def _inner(bound: int, outer: _Shape, inner: _Shape) -> int:
    """The bound of a quotient of divisor inner[2] that a bound of one of divisor outer[2] means."""
    return -(-bound * outer[2] // inner[2])


def _range(shape: _Shape) -> tuple[int, int]:
    terms, constant, divisor = shape
    low, high = bounds(Affine(tuple(terms), constant))
    return low // divisor, high // divisor


def _exact(shape: _Shape) -> bool:
    terms, constant, divisor = shape
    return all(number % divisor == 0 for number in (constant, *(c for _, c in terms)))


def _position(quotient: tuple[Affine, int], extent: int, guards: _Guards) -> Position | None:
    """None where the index may leave the buffer, or not divide, and no guard stands before it."""
    form, divisor = quotient
    shape = _shape(form, divisor)
    low, high = _range(shape)
    guarded = divisor > 1
    if divisor > 1 and shape not in guards.exact:
        return None
    if low < 0:
        guarded = True
        if shape not in guards.low:
            return None
    if high >= extent:
        guarded = True
        if guards.high.get(shape, extent + 1) > extent:
            return None
    return Position(form, divisor, guarded)
