"""Sums over lanes, of many vectors at once: halves of two are added into one, again and again.

Each halving leaves half as many vectors, which hold twice as many sums each.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.loops import INT32, Carry


def most_halvings(lanes: int) -> int:
    """How often lanes can be halved: a power of two of them."""
    return lanes.bit_length() - 1


def vectors_left(sums: int, halvings: int) -> int:
    """How many vectors hold so many sums after so many halvings."""
    return -(-sums // (1 << halvings))


def halved(builder: ir.IRBuilder, vectors: Sequence[ir.Value], first: int, last: int) -> Carry:
    """Halvings first .. last - 1 of vectors that had as many sums before the first of all.

    An odd one is added to itself: its sums are there twice.
    """
    found = list(vectors)
    for number in range(first, last):
        distance = found[0].type.count >> (number + 1)
        found += found[-1:] * (len(found) % 2)
        pairs = zip(found[::2], found[1::2], strict=True)
        found = [_added(builder, *pair, distance) for pair in pairs]
    return found


def _added(builder: ir.IRBuilder, left: ir.Value, right: ir.Value, distance: int) -> ir.Value:
    """Lanes `distance` apart added: left's sums in the lanes without that bit, right's in others.

    Half of the operands stay in their lanes, which is the cheapest of shuffles.
    """
    lanes = range(left.type.count)
    stay = [j + len(lanes) * bool(j & distance) for j in lanes]
    move = [(j ^ distance) + len(lanes) * bool(j & distance) for j in lanes]
    type_ = ir.VectorType(INT32, len(lanes))
    parts = [builder.shuffle_vector(left, right, ir.Constant(type_, x)) for x in (stay, move)]
    return builder.fadd(*parts)


def lane_totals(
    builder: ir.IRBuilder, vectors: Sequence[ir.Value], sums: int, done: int
) -> list[ir.Value]:
    """The sums of all lanes as numbers, after the halvings that are `done`."""
    if not isinstance(vectors[0].type, ir.VectorType):
        return list(vectors)
    lanes = vectors[0].type.count
    all_halvings = most_halvings(lanes)
    found = halved(builder, vectors, done, all_halvings)
    totals = []
    for number in range(sums):
        vector, inside = divmod(number, lanes)
        lane = sum((inside >> k & 1) * (lanes >> (k + 1)) for k in range(all_halvings))
        totals.append(builder.extract_element(found[vector], ir.Constant(INT32, lane)))
    return totals
