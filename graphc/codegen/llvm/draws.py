"""Random bits of the kernel language in lanes: neighbours share the generator's blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphc.codegen.llvm import ir, philox
from graphc.codegen.llvm.lanes import is_vector, lane_numbers
from graphc.codegen.nodes import Node
from graphc.kernel.philox import DRAW_BITS, DRAWS

MOST_SMALL = DRAWS << 32

if TYPE_CHECKING:
    from graphc.codegen.llvm.vector import Values


def draw(values: Values, node: Node) -> ir.Value:
    """The i16 of a node `random_bits(key, stream, counter)`, one or in lanes."""
    key, stream, counter = node.args
    row = _counts_on(values, counter)
    at = _counter(values, counter, row)
    lanes = values.lanes // DRAWS if row else at.type.count if is_vector(at) else 0

    def make() -> list[ir.Value]:
        return philox.round_keys(values.math, values.value(key), int(stream.data), lanes)

    level = values.level(key)
    keys = values.frame.remembered(level, ("round keys", key, stream, lanes), make)
    bits = philox.random_row if row else philox.random_bits
    return bits(values.math, keys, at, _is_small(counter))


def can_compare(left: Node, right: Node) -> bool:
    """Whether two nodes are random bits and a number to compare them with as they are made."""
    known = right.op == "const" and right.dtype == "int64" and 0 <= right.data < 1 << DRAW_BITS
    return left.op == "random_bits" and known


def _is_small(counter: Node) -> bool:
    """Whether blocks of a counter are numbered in 32 bits."""
    return counter.bounds is not None and 0 <= counter.bounds[0] <= counter.bounds[1] < MOST_SMALL


def _counts_on(values: Values, counter: Node) -> bool:
    """Whether lanes hold neighbouring numbers, the first a multiple of DRAWS."""
    if counter.linear is None or values.axis is None or values.lanes % DRAWS:
        return False
    terms, constant = counter.linear
    others = [constant, *(c for axis, c in terms.items() if axis != values.axis)]
    even = all(c % DRAWS == 0 for c in others)
    return terms.get(values.axis) == 1 and values.aligned and even


def _counter(values: Values, counter: Node, row: bool) -> ir.Value:
    """A counter's value, or that of lane 0 where lanes are a `row` of neighbours.

    Loops that were merged are in its terms only.
    """
    if counter.linear is None:
        return values.value(counter)
    terms, constant = counter.linear
    first = values.linear(terms, constant)
    step = terms.get(values.axis, 0) if values.axis is not None else 0
    if row or not step:
        return first
    return values.builder.add(values.splat(first), lane_numbers(64, values.lanes, step))
