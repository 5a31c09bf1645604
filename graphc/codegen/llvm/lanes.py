"""Types of values and lanes, and constants that LLVM's text needs again and again."""

from __future__ import annotations

import functools

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.loops import INT1, INT32, INT64

TYPES: dict[str, ir.Type] = {
    "float32": ir.FloatType(),
    "float64": ir.DoubleType(),
    "int32": INT32,
    "int64": INT64,
    "uint8": ir.IntType(8),
    "bool": INT1,
}
CACHE_LINE = 64  # bytes
SUFFIXES = {"float32": "f32", "float64": "f64", "int32": "i32", "int64": "i64", "uint8": "i8"}


@functools.cache
def lane_numbers(bits: int, lanes: int, step: int = 1) -> ir.Constant:
    """0, step, 2 step, ... as integers of so many bits."""
    type_ = ir.VectorType(ir.IntType(bits), lanes)
    return ir.Constant(type_, [lane * step for lane in range(lanes)])


@functools.cache
def first_lane(lanes: int) -> ir.Constant:
    """A shuffle mask that repeats lane 0."""
    return ir.Constant(ir.VectorType(INT32, lanes), None)


def is_vector(value: ir.Value) -> bool:
    """Whether a value holds lanes."""
    return isinstance(value.type, ir.VectorType)
