"""Small groups of channels side by side in one vector.

In a convolution of many groups the outputs of one group are too few to fill a vector, but those of
neighbouring groups lie beside them. So group and output become one loop for the lanes. An operand
then is a row of neighbours for some lanes only: the data has one element for all outputs of a group
and the next group's elsewhere. It is loaded in pieces and spread over the lanes.
"""

from __future__ import annotations

import itertools

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.loops import INT32
from graphc.codegen.llvm.operand import Operands
from graphc.codegen.llvm.product import Factor, Product, Spread
from graphc.codegen.nodes import reachable, statement_nodes
from graphc.kernel.lang import Axis

MOST_PIECES = 8


def with_groups_in_lanes(product: Product, lanes: int) -> Product | None:
    """The product, changed: two loops joined for the lanes. None where that is no use."""
    if lanes == 1:
        return None
    fixed = {axis for guard in product.guards for axis in guard.terms}
    fixed |= {step.each_axis for step in product.stepped.values()}
    nodes = [n for s in product.store_nodes() for n in reachable(statement_nodes(s))]
    fixed |= {node.data for node in nodes if node.op == "axis"}
    free = [axis for axis in product.each if axis not in fixed]
    for group, inner in itertools.permutations(free, 2):
        size = product.extents[inner]
        if size >= lanes or lanes % size or not _stored_together(product, group, inner):
            continue
        factors = (product.left, product.right)
        spreads = [_spread(factor, group, inner, product, lanes) for factor in factors]
        if None in spreads or not any(spread.inner for spread in spreads if spread):
            continue
        _join(product, group, inner)
        for factor, spread in zip(factors, spreads, strict=True):
            assert spread is not None
            if factor.strides.get(group, 0) != size * factor.strides.get(inner, 0):
                factor.spread = spread
                factor.strides.pop(inner, None)
            factor.strides.pop(group)
        return product if any(factor.spread for factor in factors) else None
    return _with_channels_in_lanes(product, free, lanes)


def _with_channels_in_lanes(product: Product, free: list[Axis], lanes: int) -> Product | None:
    """The same for groups of one result each, of which the operands hold several elements."""
    factors = (product.left, product.right)
    for axis in free:
        strides = [factor.strides.get(axis, 0) for factor in factors]
        stored = [store.address.terms.get(axis, 0) for store in product.store_nodes()]
        if max(strides) == 1 or any((lanes - 1) * s >= 2 * lanes or s <= 0 for s in strides):
            continue
        if any(step != 1 for step in stored):
            continue
        for factor, stride in zip(factors, strides, strict=True):
            if stride != 1:
                factor.spread = Spread(axis, 1, stride, 0)
                del factor.strides[axis]
        return product
    return None


def _stored_together(product: Product, group: Axis, inner: Axis) -> bool:
    terms = [a.terms for s in product.store_nodes() for a in product.stores.addresses(s)]
    size = product.extents[inner]
    return all(t.get(group, 0) == size * t.get(inner, 0) for t in terms)


def _spread(
    factor: Factor, group: Axis, inner: Axis, product: Product, lanes: int
) -> Spread | None:
    """How a factor lies along the joined loop, where that can be loaded."""
    size = product.extents[inner]
    spread = Spread(inner, size, factor.strides.get(group, 0), factor.strides.get(inner, 0))
    if spread.outer <= 0 or spread.inner not in (0, 1):
        return None
    if spread.inner == 0 and (lanes // size - 1) * spread.outer >= 2 * lanes:
        return None
    return spread if spread.inner == 0 or lanes // size <= MOST_PIECES else None


def _join(product: Product, group: Axis, inner: Axis) -> None:
    product.each.remove(group)
    product.extents[inner] *= product.extents.pop(group)
    for store in product.store_nodes():
        for address in product.stores.addresses(store):
            address.terms.pop(group, None)


def load_spread(
    at: Operands, spread: Spread, place: ir.Value, number: int, tail: int | None
) -> ir.Value:
    """The `number`-th vector from `place` on; `tail` of its lanes exist, None: all."""
    per_vector = at.lanes // spread.size
    place = at.moved(place, number * per_vector * spread.outer)
    groups = per_vector if tail is None else tail // spread.size
    if spread.inner == 0:
        return _repeated(at, spread, place, groups)
    pieces = [_piece(at, spread, place, group, groups) for group in range(per_vector)]
    while len(pieces) > 1:
        width = pieces[0].type.count
        mask = ir.Constant(ir.VectorType(INT32, 2 * width), list(range(2 * width)))
        pairs = zip(pieces[::2], pieces[1::2], strict=True)
        pieces = [at.builder.shuffle_vector(low, high, mask) for low, high in pairs]
    return pieces[0]


def _piece(at: Operands, spread: Spread, place: ir.Value, group: int, groups: int) -> ir.Value:
    type_ = ir.VectorType(at.element, spread.size)
    if group >= groups:
        return at.math.constant(0.0, type_)
    return at.builder.load(at.moved(place, group * spread.outer), typ=type_, align=at.item)


def _repeated(at: Operands, spread: Spread, place: ir.Value, groups: int) -> ir.Value:
    """One element of each group in all lanes of the group."""
    lanes, reach = at.lanes, (groups - 1) * spread.outer + 1
    first = at.load(place, min(reach, lanes))
    second = first
    if reach > lanes:
        second = at.load(at.moved(place, lanes), reach - lanes)
    order = [min(lane // spread.size, groups - 1) * spread.outer for lane in range(lanes)]
    mask = ir.Constant(ir.VectorType(INT32, lanes), order)
    return at.builder.shuffle_vector(first, second, mask)
