"""A contraction as dense products: flat addresses, guards as intervals, one product a stride phase.

The data gradient of a convolution of stride s divides an index by s and counts exact quotients
only. Image index i = s * q + phase meets just the taps k = first + step * t for which it is exact,
so for each phase the sum is a dense one over t, with i replaced by q. A kernel with two strided
axes becomes s * s products that store into interleaved places. Where those are too many, an axis
keeps its i, and the loop over its taps finds at run time where to start (`Stepped`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from graphc.codegen.nodes import KernelNodes, Nodes, StoreNode, reachable, statement_nodes
from graphc.kernel.affine import Affine, bounds
from graphc.kernel.contraction import Contraction, Operand, Position
from graphc.kernel.lang import Axis, Buffer, Expr, Kernel, Var, call
from graphc.kernel.walk import rebuild

MOST_PHASES = 16  # products that one kernel may become


@dataclass
class Factor:
    """An operand of the product: element constant + sum of stride * axis of a buffer.

    guarded: it may only be read where the product's guards hold. stepped: what else moves it.
    spread: how it lies along the axis that is in lanes, where it is no row of neighbours there.
    """

    buffer: Buffer
    strides: dict[Axis, int]
    constant: int
    guarded: bool
    stepped: list[Stepped]
    spread: Spread | None = None


@dataclass
class Spread:
    """Point group * size + i of an axis lies at group * outer + i * inner (0 or 1)."""

    axis: Axis
    size: int
    outer: int
    inner: int


@dataclass
class Stepped:
    """An index (constant + each * i + over * k) / divisor, exact for every divisor-th k only.

    It moves the operand's place by `stride` elements a unit. `over` and `divisor` have no common
    divisor, so there is such a k in every `divisor` neighbours.
    """

    each_axis: Axis
    over_axis: Axis
    each: int
    over: int
    constant: int
    divisor: int
    stride: int


@dataclass
class Interval:
    """A guard: 0 <= constant + sum of coefficient * axis < extent."""

    terms: dict[Axis, int]
    constant: int
    extent: int


@dataclass
class Product:
    """sum over `over` of left * right, for every point of `each`, then the stores.

    `extents` says how often each loop runs; loops that run once are not there.
    """

    each: list[Axis]
    over: list[Axis]
    extents: dict[Axis, int]
    left: Factor
    right: Factor
    guards: list[Interval]
    local: str
    stores: KernelNodes

    @property
    def stepped(self) -> dict[Axis, Stepped]:
        """The fold loops that skip what does not divide."""
        return {step.over_axis: step for step in (*self.left.stepped, *self.right.stepped)}

    def size(self, axes: list[Axis]) -> int:
        """How often loops over `axes` run their body."""
        return math.prod(self.extents[axis] for axis in axes)

    def store_strides(self, axis: Axis) -> list[int]:
        """The strides of all stores along an axis."""
        return [s.address.terms.get(axis, 0) for s in self.store_nodes()]

    def store_nodes(self) -> list[StoreNode]:
        """The epilogue."""
        return [s for s in self.stores.statements if isinstance(s, StoreNode)]


@dataclass(frozen=True)
class Cut:
    """`count` points of an axis from `first` on; the axis is in no divided index."""

    axis: Axis
    first: int
    count: int


def products(contraction: Contraction, cut: Cut | None = None) -> list[Product] | None:
    """The dense products that make up a contraction; None where a form is not covered.

    cut: only these points of an `each` axis.
    """
    axes = _divided(contraction)
    if axes is None:
        return None
    while math.prod(stride for _, _, stride in axes) > MOST_PHASES:
        left_over = next((axis for axis in axes if _can_step(contraction, axis)), None)
        if left_over is None:
            return None
        axes.remove(left_over)
    found = []
    for phase in itertools.product(*(range(stride) for _, _, stride in axes)):
        if all(start < axis.extent for start, (axis, _, _) in zip(phase, axes, strict=True)):
            product = _product(contraction, axes, phase, cut)
            _run_forwards(product)
            _merge(product)
            found.append(product)
    return found


def whole_product(contraction: Contraction) -> Product | None:
    """One product for all phases, its divided indices `stepped`; None where that cannot be."""
    axes = _divided(contraction)
    if axes is None or not all(_can_step(contraction, divided) for divided in axes):
        return None
    product = _product(contraction, [], ())
    _merge(product)
    return product


# -- phases -----------------------------------------------------------------------------------

# An `each` axis, the fold axis in the same divided index, and the divisor.
_Divided = tuple[Axis, Axis | None, int]


def _divided(contraction: Contraction) -> list[_Divided] | None:
    found: list[_Divided] = []
    for position in (*contraction.left.index, *contraction.right.index):
        if position.divisor == 1:
            continue
        uneven = [axis for axis, c in position.affine.terms if c % position.divisor]
        each = [axis for axis in uneven if axis in contraction.each]
        over = [axis for axis in uneven if axis in contraction.over]
        if len(each) != 1 or len(over) > 1 or len(uneven) != len(each) + len(over):
            return None
        found.append((each[0], over[0] if over else None, position.divisor))
    axes = [axis for each, over, _ in found for axis in (each, over) if axis is not None]
    return found if len(set(axes)) == len(axes) else None


def _can_step(contraction: Contraction, divided: _Divided) -> bool:
    each, over, stride = divided
    if over is None or over.extent == 1:  # a single tap has no loop in which it could be left out
        return False
    form = _form(contraction, each, stride)
    return len(form.terms) == 2 and math.gcd(form.coefficient(over), stride) == 1


def _form(contraction: Contraction, each: Axis, stride: int) -> Affine:
    """The numerator of the index that divides a form of `each`."""
    return next(
        p.affine
        for p in (*contraction.left.index, *contraction.right.index)
        if p.divisor == stride and p.affine.coefficient(each)
    )


def _product(
    contraction: Contraction, axes: list[_Divided], phase: tuple[int, ...], cut: Cut | None = None
) -> Product:
    """The product of one phase, every divided index made exact."""
    change: dict[Axis, Affine] = {}
    if cut is not None:
        part = Axis(f"{cut.axis.name}c", cut.count)
        change[cut.axis] = Affine(((part, 1),), cut.first)
    empty = False
    for (each, over, stride), start in zip(axes, phase, strict=True):
        inner = Axis(f"{each.name}q", len(range(start, each.extent, stride)))
        change[each] = Affine(((inner, stride),), start)
        form = _form(contraction, each, stride)
        rest = form.constant + form.coefficient(each) * start
        taps = _taps(form.coefficient(over), stride, rest, over.extent) if over else None
        if over is None or taps is None:
            empty = empty or over is not None or rest % stride != 0
            continue
        first, step, count = taps
        change[over] = Affine(((Axis(f"{over.name}t", count), step),), first)
    return _substituted(contraction, change, empty)


def _taps(coefficient: int, stride: int, rest: int, extent: int) -> tuple[int, int, int] | None:
    """(first, step, count) of the k with coefficient * k + rest divisible by stride; None: none."""
    step = stride // math.gcd(coefficient, stride)
    for first in range(min(step, extent)):
        if (coefficient * first + rest) % stride == 0:
            return first, step, len(range(first, extent, step))
    return None


def _substituted(contraction: Contraction, change: dict[Axis, Affine], empty: bool) -> Product:
    def renamed(axes: tuple[Axis, ...]) -> list[Axis]:
        return [change[axis].terms[0][0] if axis in change else axis for axis in axes]

    operands = [
        replace(operand, index=tuple(_exact(p, change, empty) for p in operand.index))
        for operand in (contraction.left, contraction.right)
    ]
    rewritten: dict[Expr, Expr] = {Var(axis): _expr(form) for axis, form in change.items()}
    stores = tuple(
        replace(
            store,
            index=tuple(rebuild(i, rewritten) for i in store.index),
            value=rebuild(store.value, rewritten),
        )
        for store in contraction.stores
    )
    each, over = renamed(contraction.each), renamed(contraction.over)
    kernel: Kernel = replace(contraction.kernel, each=tuple(each), body=stores)
    left, right = (_factor(operand, over) for operand in operands)
    left.guarded, right.guarded = left.guarded or empty, right.guarded or empty
    guards = [g for operand in operands for g in _intervals(operand)]
    extents = {axis: axis.extent for axis in (*each, *over) if axis.extent != 1}
    over = [axis for axis in over if axis in extents]
    loose = [guard for guard in guards if not any(axis in over for axis in guard.terms)]
    if empty:
        loose.append(Interval({}, -1, 1))
        guards.append(loose[-1])
    if loose or not over:
        # A loop that runs at most once stands for the sum's being there at all.
        once = Axis("once", 1)
        extents[once] = 1
        over.insert(0, once)
        for guard in loose:
            guard.terms[once] = 0
    return Product(
        [axis for axis in each if axis in extents],
        over,
        extents,
        left,
        right,
        guards,
        contraction.fold.locals[0].name,
        Nodes(kernel).read(),
    )


def _exact(position: Position, change: dict[Axis, Affine], empty: bool) -> Position:
    """The position after the change of variables, its division carried out."""
    terms: dict[Axis, int] = {}
    constant = position.affine.constant
    for axis, coefficient in position.affine.terms:
        form = change.get(axis, Affine(((axis, 1),), 0))
        constant += coefficient * form.constant
        for inner, factor in form.terms:
            terms[inner] = terms.get(inner, 0) + coefficient * factor
    kept = all(axis not in change for axis, _ in position.affine.terms)
    if position.divisor > 1 and kept and terms:
        return position
    if position.divisor > 1:
        if empty:  # nothing of it is ever read
            return Position(Affine((), 0))
        constant //= position.divisor
        terms = {axis: c // position.divisor for axis, c in terms.items()}
    return Position(Affine(tuple((a, c) for a, c in terms.items() if c), constant))


def _expr(form: Affine) -> Expr:
    (axis, factor), *_ = form.terms
    return call("add", call("mul", Var(axis), factor), form.constant)


def _stepped(position: Position, stride: int, over: list[Axis]) -> Stepped:
    form = position.affine
    each_axis, over_axis = (axis for axis, _ in sorted(form.terms, key=lambda t: t[0] in over))
    return Stepped(
        each_axis,
        over_axis,
        form.coefficient(each_axis),
        form.coefficient(over_axis),
        form.constant,
        position.divisor,
        stride,
    )


def _factor(operand: Operand, over: list[Axis]) -> Factor:
    strides: dict[Axis, int] = {}
    constant = 0
    stepped: list[Stepped] = []
    for position, stride in zip(operand.index, operand.buffer.strides, strict=True):
        if position.divisor > 1:
            stepped.append(_stepped(position, stride, over))
            continue
        constant += position.affine.constant * stride
        for axis, coefficient in position.affine.terms:
            if axis.extent != 1:
                strides[axis] = strides.get(axis, 0) + coefficient * stride
    kept = {axis: stride for axis, stride in strides.items() if stride}
    guarded = bool(stepped) or any(True for _ in _intervals(operand))
    return Factor(operand.buffer, kept, constant, guarded, stepped)


def _intervals(operand: Operand) -> Iterator[Interval]:
    for position, extent in zip(operand.index, operand.buffer.shape, strict=True):
        low, high = bounds(position.affine)
        limit = extent * position.divisor
        if low < 0 or high >= limit:
            terms = {axis: c for axis, c in position.affine.terms if axis.extent != 1}
            yield Interval(terms, position.affine.constant, limit)


def _run_forwards(product: Product) -> None:
    """Let every fold go forwards in the larger operand: caches fetch what follows ahead."""
    factors = (product.left, product.right)
    large = max(factors, key=lambda factor: math.prod(factor.buffer.shape))
    for axis in product.over:
        steps = [factor.strides.get(axis, 0) for factor in factors]
        if axis in product.stepped or large.strides.get(axis, max(steps)) >= 0:
            continue
        last = product.extents[axis] - 1
        for factor, step in zip(factors, steps, strict=True):
            if step:
                factor.strides[axis] = -step
                factor.constant += step * last
        for guard in product.guards:
            if axis in guard.terms:
                guard.constant += guard.terms[axis] * last
                guard.terms[axis] = -guard.terms[axis]


# -- merging ----------------------------------------------------------------------------------


def _merge(product: Product) -> None:
    """Make one loop of two wherever every address sees them as one."""
    fixed = {axis for guard in product.guards for axis in guard.terms}
    for step in product.stepped.values():
        fixed |= {step.each_axis, step.over_axis}
    nodes = [n for s in product.store_nodes() for n in reachable(statement_nodes(s))]
    fixed |= {node.data for node in nodes if node.op == "axis"}
    strides = [product.left.strides, product.right.strides]
    stored = {id(a): a.terms for s in product.store_nodes() for a in product.stores.addresses(s)}
    for axes, seen in (
        (product.over, strides),
        (product.each, [*strides, *stored.values()]),
    ):
        while pair := _mergeable([a for a in axes if a not in fixed], seen, product.extents):
            far, near = pair
            axes.remove(far)
            product.extents[near] *= product.extents.pop(far)
            for terms in seen:
                terms.pop(far, None)


def _mergeable(
    axes: list[Axis], seen: list[dict[Axis, int]], extents: dict[Axis, int]
) -> tuple[Axis, Axis] | None:
    for far, near in itertools.permutations(axes, 2):
        if all(t.get(far, 0) == t.get(near, 0) * extents[near] for t in seen):
            return far, near
    return None
