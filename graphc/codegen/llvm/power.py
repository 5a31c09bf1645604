"""x ** y.

|x| ** y = e ** (y log|x|), and an error of the logarithm is multiplied by up to |y log|x||, 88 in
float32 and 745 in float64. So float32 is computed in float64, which also rounds denormal results
and overflows in its last conversion, and float64 with a logarithm in two parts. A constant float32
exponent like LRN's -0.75 stays in float32, where that is exact enough.

Special values are those of C99 (F.9.4.4) and numpy.
"""

from __future__ import annotations

import math

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.arithmetic import (
    FLOAT32,
    FLOAT64,
    LN2,
    LOG2E,
    Arithmetic,
    format_of,
    reshaped,
)
from graphc.codegen.llvm.exponential import TABLES, exp_of_remainder
from graphc.codegen.llvm.logarithm import small_terms, split

# Made as the tables of exp and log are, shorter: float32 only needs 32 bits of the logarithm.
SHORT_R = (  # 2^-37.6, relative to log(1 + f)
    0.6666666563711728,
    0.4000033724996718,
    0.285371680039766,
    0.23584987286126632,
)
SHORT_EXPONENTIAL = (  # 2^-39, absolute error of e**r
    0.49999999999733974,
    0.16666666755016232,
    0.041666666956927195,
    0.008333288797243028,
    0.001388880898410846,
    0.00019905073872261616,
    2.488266272581292e-05,
)
# y log|x| is held within these, where the result is 0 or infinite anyway.
LIMIT = {"f32": 200.0, "f64": 800.0}
SAFE = 2.0**-60  # x ** -7/4 is finite in float32 for no smaller x
FAR = 1.2  # 2**(-126 * FAR) is 0, rounded to float32, and its reciprocal is infinite
# Beyond it x ** y is 0, 1 or infinite for every x. Held there, y log|x| is finite or log|x| is not.
LARGEST_EXPONENT = 2.0**130


def pow_const(m: Arithmetic, x: ir.Value, y: float, at_least: float = -math.inf) -> ir.Value:
    """x ** y for a number y, rounded to x's format; products and roots where exact enough.

    `at_least` promises that x is not below it, or nan: above 0 that saves half the instructions.
    """
    y = format_of(x.type).rounded(y)
    if not math.isfinite(y):
        return pow(m, x, m.like(x, y))
    if y == 0:
        return m.like(x, 1.0)
    if y in (1, 2, 3, 4, -1, -2, -3):
        return _product(m, x, int(y))
    if abs(y) == 0.5:
        return _root(m, x, y)
    if y in (-0.25, -0.75, -1.25, -1.75) and m.estimates_roots(x.type):
        return _quarters(m, x, y, at_least)
    if format_of(x.type) is FLOAT32 and abs(y) <= 2 and (y * 2**14).is_integer():
        return _moderate(m, x, y)
    value = _magnitude(m, m.abs(x), m.like(x, y))
    if y.is_integer():
        return m.copysign(value, x) if y % 2 else value
    return _nan_below_zero(m, x, value)


def pow(m: Arithmetic, x: ir.Value, y: ir.Value) -> ir.Value:
    """x ** y: 1 for y = 0 or x = 1; nan for finite x < 0 unless y is whole."""
    b, zero, one = m.builder, m.like(x, 0.0), m.like(x, 1.0)
    value = _magnitude(m, m.abs(x), y)
    whole = b.fcmp_ordered("==", m.floor(y), y)
    half = b.fmul(y, m.like(x, 0.5))
    odd = b.and_(whole, b.fcmp_ordered("!=", m.floor(half), half))
    value = b.select(odd, m.copysign(value, x), value)
    value = b.select(whole, value, _nan_below_zero(m, x, value))
    value = m.when("==", x, one, one, value)
    return m.when("==", y, zero, one, value)


def _product(m: Arithmetic, x: ir.Value, y: int) -> ir.Value:
    """x ** y for a small whole y; reciprocal first, since the product might overflow."""
    b = m.builder
    base = x if y > 0 else b.fdiv(m.like(x, 1.0), x)
    value = base
    if abs(y) > 1:
        value = b.fmul(base, base)
    if abs(y) == 4:
        return b.fmul(value, value)
    return b.fmul(value, base) if abs(y) == 3 else value


def _root(m: Arithmetic, x: ir.Value, y: float) -> ir.Value:
    """x ** 0.5 and x ** -0.5, which differ from sqrt at -0 and -inf: both lose their sign."""
    root = m.sqrt(m.builder.fadd(x, m.like(x, 0.0)))
    infinity = m.like(x, float("inf"))
    root = m.when("==", x, m.like(x, float("-inf")), infinity, root)
    return root if y > 0 else m.builder.fdiv(m.like(x, 1.0), root)


def _quarters(m: Arithmetic, x: ir.Value, y: float, at_least: float) -> ir.Value:
    """float32 x ** y for y = -1/4, -3/4, -5/4 or -7/4."""
    b = m.builder
    if at_least >= SAFE:
        value = _quarter(m, x, round(-4 * y))
        return m.when("==", x, m.like(x, float("inf")), m.like(x, 0.0), value)
    a = m.abs(x)
    if y > -1:
        return _ended(m, x, _quarter(m, a, round(-4 * y)), y)
    # The product x t below might overflow where the result is infinite.
    return _ended(m, x, b.fdiv(_quarter(m, a, round(-4 * y) - 4), a), y)


def _quarter(m: Arithmetic, a: ir.Value, count: int) -> ir.Value:
    """a ** (-count / 4), count odd, for 0 < a < inf: two estimates, and what they err by.

    root ** 2 = (1 - e) / a and fourth ** 2 = (1 - f) / root, so that root * fourth, say, is
    a ** (-1/4) (1 - e) ** (1/4) (1 - f) ** (1/2). The estimates err by 2^-14 at most, e and f by
    2^-13: what is left out of 1 + count e / 4 + f / 2 is below 2^-24.
    """
    b = m.builder
    one = m.like(a, 1.0)
    root = m.rough_rsqrt(a)
    fourth = m.rough_rsqrt(root)  # a ** 1/4
    if count < 4:  # root * root might overflow
        t = b.fmul(root, fourth)
        t = b.fmul(t, root) if count == 3 else t
        e = m.fma(b.fneg(b.fmul(a, root)), root, one)
    else:
        inverse = b.fmul(root, root)
        t = b.fmul(b.fmul(root if count == 5 else inverse, fourth), inverse)
        e = m.fma(b.fneg(a), inverse, one)
    f = m.fma(b.fneg(root), b.fmul(fourth, fourth), one)
    return m.fma(m.fma(e, m.like(a, count / 2), f), b.fmul(t, m.like(a, 0.5)), t)


def _moderate(m: Arithmetic, x: ir.Value, y: float) -> ir.Value:
    """float32 x ** y, |y| <= 2 not whole, so short that y times an exponent is exact.

    y log2 x = y e + y log2(1 + f). Only the second part rounds, and it is at most 1.
    """
    b = m.builder
    a = m.abs(x)
    e, f = split(m, a)
    h, q = small_terms(m, f)
    log = b.fsub(f, b.fsub(h, q))
    whole = b.fmul(e, m.like(x, y))
    n, k = m.nearest(m.fma(log, m.like(x, y * LOG2E), whole))
    r = m.fma(b.fsub(whole, n), m.like(x, LN2), b.fmul(log, m.like(x, y)))
    return _ended(m, x, m.scale(exp_of_remainder(m, r, TABLES["f32"].exponential), k), y)


def _ended(m: Arithmetic, x: ir.Value, value: ir.Value, y: float) -> ir.Value:
    """`value`, and the right one where x is 0, infinite, nan or negative; y is not whole.

    Denormal numbers count as 0 for an exponent that leads from them to 0 or infinity: y times
    theirs is more than `scale` takes.
    """
    b, a = m.builder, m.abs(x)
    at_zero, at_infinity = (0.0, float("inf")) if y > 0 else (float("inf"), 0.0)
    infinity = m.like(x, float("inf"))
    value = m.when("==", a, infinity, m.like(x, at_infinity), value)
    if abs(y) < FAR:
        value = m.when("==", a, m.like(x, 0.0), m.like(x, at_zero), value)
    else:
        value = m.when("<", a, m.like(x, 2.0**-126), m.like(x, at_zero), value)
    return b.select(b.fcmp_unordered("uno", x, x), x, _nan_below_zero(m, x, value))


def _nan_below_zero(m: Arithmetic, x: ir.Value, value: ir.Value) -> ir.Value:
    """nan where -inf < x < 0."""
    b = m.builder
    negative = b.and_(
        b.fcmp_ordered("<", x, m.like(x, 0.0)), b.fcmp_ordered(">", x, m.like(x, float("-inf")))
    )
    return b.select(negative, m.like(x, float("nan")), value)


def _magnitude(m: Arithmetic, a: ir.Value, y: ir.Value) -> ir.Value:
    """a ** y for a >= 0 or nan. For y = 0 and infinite or zero a it gives nan."""
    if format_of(a.type) is FLOAT32:
        return _magnitude_float32(m, a, y)
    return _magnitude_float64(m, a, y)


def _log_edges(m: Arithmetic, a: ir.Value, value: ir.Value) -> ir.Value:
    """value for 0 < a < inf; the logarithms of 0, inf and nan elsewhere (a >= 0)."""
    b, zero, infinity = m.builder, m.like(a, 0.0), m.like(a, float("inf"))
    inside = b.and_(b.fcmp_ordered(">", a, zero), b.fcmp_ordered("<", a, infinity))
    return b.select(inside, value, m.when("==", a, zero, m.like(a, float("-inf")), a))


def _held(m: Arithmetic, x: ir.Value, limit: float) -> ir.Value:
    """x within -limit .. limit; a nan stays."""
    return m.max(m.min(x, m.like(x, limit)), m.like(x, -limit))


def _magnitude_float32(m: Arithmetic, a: ir.Value, y: ir.Value) -> ir.Value:
    """Through float64, where float32's denormals are normal and its range is far from the ends."""
    b = m.builder
    double = reshaped(a.type, FLOAT64.real)
    wide = b.fpext(a, double)
    exponent = _held(m, b.fpext(y, double), LARGEST_EXPONENT)
    e, f = split(m, wide)
    h, q = small_terms(m, f, SHORT_R)
    log = m.fma(e, m.like(wide, LN2), b.fsub(f, b.fsub(h, q)))
    z = _held(m, b.fmul(_log_edges(m, wide, log), exponent), LIMIT["f32"])
    n, k = m.nearest(b.fmul(z, m.like(z, LOG2E)))
    r = m.fma(n, m.like(z, -LN2), z)
    value = b.fmul(exp_of_remainder(m, r, SHORT_EXPONENTIAL), m.power_of_two(k, FLOAT64))
    return b.fptrunc(value, a.type)


def _magnitude_float64(m: Arithmetic, a: ir.Value, y: ir.Value) -> ir.Value:
    b = m.builder
    y = _held(m, y, LARGEST_EXPONENT)
    high, low = _log_in_two_parts(m, a)
    product = b.fmul(y, high)
    # An infinite product leaves a nan here, which `min` and `max` of a constant drop.
    rest = b.fadd(_product_error(m, y, high, product), b.fmul(y, low))
    rest = m.max(m.like(a, -1.0), m.min(m.like(a, 1.0), rest))
    z = _held(m, product, LIMIT["f64"])
    n, k = m.nearest(b.fmul(z, m.like(z, LOG2E)))
    r = m.fma(n, m.like(z, -FLOAT64.ln2_high), z)
    r = b.fadd(m.fma(n, m.like(z, -FLOAT64.ln2_low), r), rest)
    return m.scale(exp_of_remainder(m, r, TABLES["f64"].exponential), k)


def _log_in_two_parts(m: Arithmetic, a: ir.Value) -> tuple[ir.Value, ir.Value]:
    """(high, low): log a = high + low, about 8 bits more than one double holds.

    f^2 / 2 is exact in two parts (the square of f's upper half, and the rest); each sum keeps what
    it rounded off (Dekker: the larger number comes first).
    """
    b = m.builder
    e, f = split(m, a)
    _, q = small_terms(m, f)
    upper, lower = _halves(m, f)
    square = b.fmul(b.fmul(upper, upper), m.like(f, 0.5))
    square_rest = b.fmul(b.fmul(b.fadd(f, upper), lower), m.like(f, 0.5))
    first = b.fsub(f, square)
    first_error = b.fsub(b.fsub(f, first), square)
    whole = b.fmul(e, m.like(a, FLOAT64.ln2_high))
    high = b.fadd(whole, first)
    low = b.fadd(b.fadd(b.fsub(whole, high), first), b.fsub(first_error, square_rest))
    low = b.fadd(low, m.fma(e, m.like(a, FLOAT64.ln2_low), q))
    total = b.fadd(high, low)
    return _log_edges(m, a, total), b.fadd(b.fsub(high, total), low)


def _halves(m: Arithmetic, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """(upper, lower): x = upper + lower exactly; upper has 26 bits, so its square is exact."""
    b, form = m.builder, format_of(x.type)
    bits = m.as_bits(x)
    upper = m.as_real(b.and_(bits, m.like(bits, -(1 << 27))), form)
    return upper, b.fsub(x, upper)


def _product_error(m: Arithmetic, a: ir.Value, b: ir.Value, product: ir.Value) -> ir.Value:
    """a b - product, exactly but for a last bit that does not matter without FMA."""
    builder = m.builder
    if m.target.has_fma:
        return m.fma(a, b, builder.fneg(product))
    (p, q), (r, s) = _halves(m, a), _halves(m, b)
    error = builder.fsub(builder.fmul(p, r), product)
    error = builder.fadd(error, builder.fmul(p, s))
    return builder.fadd(builder.fadd(error, builder.fmul(q, r)), builder.fmul(q, s))
