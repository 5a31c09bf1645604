"""Numbers, one or in lanes, of one dtype as those of another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.lanes import SUFFIXES, TYPES, is_vector
from graphc.ir.types import DTYPES, REAL

if TYPE_CHECKING:
    from graphc.codegen.llvm.vector import Values


def cast(values: Values, value: ir.Value, old: str, new: str) -> ir.Value:
    """A number or lanes of one dtype as those of another."""
    b, type_ = values.builder, values.like(value, TYPES[new])
    if new == "bool":
        zero = values.math.like(value, 0)
        compare = b.fcmp_unordered if old in REAL else b.icmp_signed
        return compare("!=", value, zero)
    signed = old in ("int32", "int64")
    if old in REAL and new in REAL:
        wider = DTYPES[new] > DTYPES[old]
        return b.fpext(value, type_) if wider else b.fptrunc(value, type_)
    if new in REAL:
        return b.sitofp(value, type_) if signed else b.uitofp(value, type_)
    if old in REAL and new != "uint8" and is_vector(value):
        return _to_whole(values, value, old, new)
    if old in REAL:
        lanes = f"v{value.type.count}" if is_vector(value) else ""
        kind = "fptoui" if new == "uint8" else "fptosi"
        name = f"llvm.{kind}.sat.{lanes}{SUFFIXES[new]}.{lanes}{SUFFIXES[old]}"
        return values.math.intrinsic(name, type_, value)
    bits = TYPES[new].width - TYPES[old].width
    if bits == 0:
        return value
    if bits < 0:
        return b.trunc(value, type_)
    return b.sext(value, type_) if signed else b.zext(value, type_)


def _to_whole(values: Values, value: ir.Value, old: str, new: str) -> ir.Value:
    """Lanes of real numbers as whole ones: the nearest that there is, 0 for a nan.

    As llvm.fptosi.sat, for which LLVM takes lane by lane.
    """
    b, m, type_ = values.builder, values.math, values.like(value, TYPES[new])
    bits = TYPES[new].width
    beyond, lowest = 2.0 ** (bits - 1), -(2.0 ** (bits - 1))
    highest = float(np.nextafter(np.dtype(old).type(beyond), np.dtype(old).type(0)))
    inside = m.max(m.min(value, m.like(value, highest)), m.like(value, lowest))
    known = b.fcmp_ordered("==", value, value)
    zero = m.like(value, 0)
    result = b.fptosi(b.select(known, inside, zero), type_)
    above = b.fcmp_ordered(">=", value, m.like(value, beyond))
    return b.select(above, m.constant(2 ** (bits - 1) - 1, type_), result)
