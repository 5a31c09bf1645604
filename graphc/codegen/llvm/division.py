"""Quotients and remainders of whole numbers, rounded towards minus infinity; and of reals, by r.

A division of lanes takes as long as a dozen products. Where many are divided by one number d, that
of a window's elements or the sum of a softmax, its reciprocal r is found once:

    q = x r;  x / d = q + (x - d q) r

The remainder x - d q is exact. By a small whole number no quotient comes near to the middle of two
neighbours, where a little error would matter: the result is the division's, to the last bit, down
to the smallest normal number. By others it is so but for one in many millions.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.lanes import is_vector
from graphc.codegen.llvm.loops import INT32
from graphc.codegen.nodes import Node
from graphc.ir.types import REAL

if TYPE_CHECKING:
    from graphc.codegen.llvm.vector import Values

LARGEST_DIVISOR = 4096  # a quotient by d is 1/d of a unit from the middle of two neighbours


def divide(values: Values, node: Node) -> ir.Value:
    """Quotient or remainder, rounded towards minus infinity."""
    by = node.args[1]
    bounds = node.args[0].bounds
    if by.op == "const" and by.data > 0 and node.dtype == "int64" and bounds is not None:
        shift = -(bounds[0] // int(by.data)) if bounds[0] < 0 else 0
        highest = bounds[1] + shift * int(by.data)
        if highest < 2**31 and by.data < 2**31:
            return _small(values, node, shift)
    return _signed(values, node)


def _small(values: Values, node: Node, shift: int) -> ir.Value:
    """By a number, of what is known to be small: unsigned, in 32 bits.

    `shift` times the divisor is added first, so that nothing is negative.
    """
    b, m = values.builder, values.math
    left, by = values.value(node.args[0]), int(node.args[1].data)
    if shift:
        left = b.add(left, m.like(left, shift * by))
    narrow = b.trunc(left, values.like(left, INT32))
    divide = b.udiv if node.op == "floordiv" else b.urem
    result = b.zext(divide(narrow, m.like(narrow, by)), left.type)
    if shift and node.op == "floordiv":
        result = b.sub(result, m.like(result, shift))
    return result


def _signed(values: Values, node: Node) -> ir.Value:
    b, m = values.builder, values.math
    left, right = values.alike(*node.args)
    if node.args[1].op != "const":
        # Both sides of a select are evaluated: a divisor of 0 whose result is not used.
        zero = b.icmp_signed("==", right, m.like(right, 0))
        right = b.select(zero, m.like(right, 1), right)
    if node.dtype == "uint8":
        return b.udiv(left, right) if node.op == "floordiv" else b.urem(left, right)
    quotient = b.sdiv(left, right)
    remainder = b.sub(left, b.mul(quotient, right))
    uneven = b.icmp_signed("!=", remainder, m.like(left, 0))
    opposite = b.icmp_signed("<", b.xor(remainder, right), m.like(left, 0))
    low = b.and_(uneven, opposite)
    if node.op == "floordiv":
        return b.sub(quotient, b.zext(low, left.type))
    return b.add(remainder, b.select(low, right, m.like(left, 0)))


def is_by_one(values: Values, node: Node) -> bool:
    """Whether lanes are divided by what is one number for many, and its reciprocal is in range."""
    x, by = node.args
    if node.dtype not in REAL or not values.math.target.has_fma or not values.varies(x):
        return False
    if by.op == "const":
        return float(by.data).is_integer() and 1 <= by.data <= LARGEST_DIVISOR
    if values.varies(by) and values.level(by) >= values.level(x):
        return False
    if by.op == "local":
        return by.data in values.masses
    low, high = (by.op == "cast" and by.args[0].bounds) or (0, 0)
    return low >= 1 and high <= LARGEST_DIVISOR


def by_reciprocal(values: Values, node: Node) -> ir.Value:
    """x / d, where `is_by_one` says so."""
    b, m = values.builder, values.math
    x, d = (values.wide(arg) for arg in node.args)
    by = node.args[1]

    def reciprocal() -> ir.Value:
        one = values.value(by)
        found = b.fdiv(m.like(one, 1.0), one)
        return found if is_vector(found) else values.splat(found)

    key = ("reciprocal", values.lanes, by)
    r = values.frame.remembered(values.level(by), key, reciprocal)
    q = b.fmul(x, r)
    if by.op == "const" and math.frexp(by.data)[0] == 0.5:
        return q  # a power of two
    rest = m.fma(b.fneg(q), d, x)
    # Nothing is left of a zero, whose sign q has; of an infinity a nan is.
    done = b.fcmp_unordered("==", rest, m.like(rest, 0.0))
    return b.select(done, q, m.fma(rest, r, q))
