"""Quotients and remainders of whole numbers, rounded towards minus infinity."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llvmlite import ir

from graphc.codegen.llvm.loops import INT32
from graphc.codegen.nodes import Node

if TYPE_CHECKING:
    from graphc.codegen.llvm.vector import Values


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
