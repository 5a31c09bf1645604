"""Comparisons of whole numbers in lanes of 32 bits: half the registers that 64 bits take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.lanes import lane_numbers
from graphc.codegen.llvm.loops import INT1, INT32
from graphc.codegen.nodes import Node

if TYPE_CHECKING:
    from graphc.codegen.llvm.vector import Values

# By what left - right is.
_HOLDS: dict[str, Callable[[int], bool]] = {
    "lt": lambda d: d < 0,
    "le": lambda d: d <= 0,
    "eq": lambda d: d == 0,
}


def known_lanes(values: Values, node: Node) -> ir.Constant | None:
    """A comparison of affine functions of the lanes' axis whose outcome is known in every lane."""
    left, right = (side.linear for side in node.args)
    if values.axis is None or left is None or right is None:
        return None
    terms = dict(left[0])
    for axis, coefficient in right[0].items():
        terms[axis] = terms.get(axis, 0) - coefficient
    slope = terms.get(values.axis, 0)
    if slope == 0:
        return None
    low = high = left[1] - right[1]
    for axis, coefficient in terms.items():
        reach = values.reach(axis)
        if reach is None:
            return None
        ends = sorted(coefficient * end for end in reach)
        low, high = low + ends[0], high + ends[1]
    holds = _HOLDS[node.op]
    bits = []
    for step in range(0, slope * values.lanes, slope):
        found = {holds(end + step) for end in (low, high)}
        if len(found) > 1 or (node.op == "eq" and low != high):
            return None
        bits.append(int(found.pop()))
    return ir.Constant(ir.VectorType(INT1, values.lanes), bits)


def is_everywhere(mask: ir.Value, bit: int) -> bool:
    """Whether a mask is known to be `bit` in all lanes."""
    if not isinstance(mask, ir.Constant) or not isinstance(mask.constant, list):
        return False
    return all(lane == bit for lane in mask.constant)


def lane_limits(values: Values, node: Node) -> tuple[ir.Value, ir.Value] | None:
    """A comparison of affine functions of the lanes' axis: lane numbers against one number.

    left - right = slope * lane + base, compared with 0. In 32 bits, for as far as these reach:
    half the registers of the general way, and no arithmetic on them.
    """
    left, right = node.args
    if values.axis is None or left.linear is None:
        return None
    if right.linear is None:
        return _limit_of(values, left, right)
    terms = {axis: -c for axis, c in left.linear[0].items()}
    for axis, coefficient in right.linear[0].items():
        terms[axis] = terms.get(axis, 0) + coefficient
    slope = -terms.get(values.axis, 0)
    reach = [abs(end) for side in (left, right) for end in side.bounds or (2**62,)]
    if slope == 0 or max(reach) + abs(slope) * values.lanes >= 2**29:
        return None
    limit = values.linear(terms, right.linear[1] - left.linear[1])
    narrow = values.builder.trunc(limit, INT32)
    return lane_numbers(32, values.lanes, slope), values.splat(narrow)


def _limit_of(values: Values, left: Node, right: Node) -> tuple[ir.Value, ir.Value] | None:
    """The same where the right side is any number of which the bounds are known."""
    assert left.linear is not None
    terms, constant = left.linear
    slope = terms.get(values.axis, 0) if values.axis else 0
    reach = [abs(end) for side in (left, right) for end in side.bounds or (2**62,)]
    far = max(reach) + abs(slope) * values.lanes >= 2**29
    if slope == 0 or far or right.dtype != "int64" or values.varies(right):
        return None
    limit = values.builder.sub(values.value(right), values.linear(terms, constant))
    narrow = values.builder.trunc(limit, INT32)
    return lane_numbers(32, values.lanes, slope), values.splat(narrow)


def are_narrow(values: Values, nodes: Sequence[Node]) -> bool:
    """Whether these are whole numbers in lanes that are known to fit 32 bits."""
    fit = all(
        n.dtype == "int64"
        and n.bounds is not None
        and n.bounds[0] >= -(2**31)
        and n.bounds[1] < 2**31
        for n in nodes
    )
    return fit and values.axis is not None and any(values.varies(n) for n in nodes)


def narrow(values: Values, node: Node) -> ir.Value:
    """A whole number in lanes of 32 bits, made where it is known."""
    value = values.wide(node)
    if node.op == "const":
        return values.math.constant(int(node.data), ir.VectorType(INT32, values.lanes))
    type_ = ir.VectorType(INT32, values.lanes)
    key = ("narrow", values.lanes, node)
    level = values.level(node)
    return values.frame.remembered(level, key, lambda: values.builder.trunc(value, type_))
