"""log and log1p as polynomials.

x = 2**e (1 + f) with sqrt(1/2) <= 1 + f < sqrt(2), and log(1 + f) = f - (h - q) with h = f^2 / 2.
The small term q has two forms:

    float32   q = f^3 L(f)
    float64   q = s (h + s^2 R(s^2)), s = f / (2 + f)

The second needs a division and half the coefficients. It comes from log(1 + f) = 2 artanh(s) =
2 s + s^3 R(s^2) and 2 s = f - s f. The coefficients are made as those of exp are; bounds are
relative to log(1 + f).
"""

from __future__ import annotations

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.arithmetic import FLOAT32, Arithmetic, format_of

L = (  # 2^-25.6, at the ends of the interval
    0.3333333134651184,
    -0.250008225440979,
    0.20001260936260223,
    -0.16623349487781525,
    0.14200913906097412,
    -0.13156621158123016,
    0.1275177299976349,
    -0.07622081786394119,
)
R = (  # 2^-59.5
    0.6666666666666735,
    0.3999999999940875,
    0.2857142874391086,
    0.22222198398894824,
    0.1818357422184737,
    0.15313777670485396,
    0.1479886420762649,
)


def log(m: Arithmetic, x: ir.Value) -> ir.Value:
    """Natural logarithm; -inf of both zeros, nan below them."""
    return _edges(m, x, _log(m, x, None))


def log1p(m: Arithmetic, x: ir.Value) -> ir.Value:
    """log(1 + x), also where 1 + x would round x away: u = 1 + x, plus what it lost over u."""
    b, one = m.builder, m.like(x, 1.0)
    u = b.fadd(one, x)
    kept = b.fsub(u, one)
    lost = b.fadd(b.fsub(one, b.fsub(u, kept)), b.fsub(x, kept))
    value = _edges(m, u, _log(m, u, b.fdiv(lost, u)))
    tiny = m.like(x, 2.0 ** -(format_of(x.type).mantissa + 2))
    return m.when("<", m.abs(x), tiny, x, value)


def split(m: Arithmetic, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """(e, f): x = 2**e (1 + f), sqrt(1/2) <= 1 + f < sqrt(2), for 0 < x < inf, else anything."""
    b, form = m.builder, format_of(x.type)
    root = form.bits(0.5**0.5)
    lift = 2.0 ** (form.mantissa + 1)
    denormal = b.fcmp_ordered("<", x, m.like(x, 2.0 ** (1 - form.bias)))
    bits = m.as_bits(b.select(denormal, b.fmul(x, m.like(x, lift)), x))
    # From here on exponents count from sqrt(1/2) instead of 1, and stay positive: AVX2 can neither
    # shift 64-bit integers arithmetically nor convert them.
    bits = b.add(bits, m.like(bits, (form.bias << form.mantissa) - root))
    exponent = b.lshr(bits, m.like(bits, form.mantissa))
    fraction = b.and_(bits, m.like(bits, (1 << form.mantissa) - 1))
    e = m.as_real(b.add(exponent, m.like(bits, form.bits(form.rounder))), form)
    offset = form.rounder + form.bias
    lifted = m.like(x, offset + form.mantissa + 1)
    e = b.fsub(e, b.select(denormal, lifted, m.like(x, offset)))
    f = b.fsub(m.as_real(b.add(fraction, m.like(bits, root)), form), m.like(x, 1.0))
    return e, f


def small_terms(
    m: Arithmetic, f: ir.Value, coefficients: tuple[float, ...] | None = None
) -> tuple[ir.Value, ir.Value]:
    """(h, q): log(1 + f) = f - (h - q). `coefficients` replace R for float64."""
    b = m.builder
    square = b.fmul(f, f)
    h = b.fmul(square, m.like(f, 0.5))
    if format_of(f.type) is FLOAT32:
        return h, b.fmul(m.polynomial(f, L), b.fmul(square, f))
    s = b.fdiv(f, b.fadd(f, m.like(f, 2.0)))
    t = b.fmul(s, s)
    return h, b.fmul(s, m.fma(m.polynomial(t, coefficients or R), t, h))


def _log(m: Arithmetic, x: ir.Value, correction: ir.Value | None) -> ir.Value:
    """log(x) + correction for 0 < x < inf."""
    b, form = m.builder, format_of(x.type)
    e, f = split(m, x)
    h, q = small_terms(m, f)
    q = m.fma(e, m.like(x, form.ln2_low), q)
    if correction is not None:
        q = b.fadd(q, correction)
    return m.fma(e, m.like(x, form.ln2_high), b.fsub(f, b.fsub(h, q)))


def _edges(m: Arithmetic, x: ir.Value, value: ir.Value) -> ir.Value:
    """value for 0 < x < inf, and what log gives elsewhere."""
    b, zero, infinity = m.builder, m.like(x, 0.0), m.like(x, float("inf"))
    inside = b.and_(b.fcmp_ordered(">", x, zero), b.fcmp_ordered("<", x, infinity))
    below = m.when("<", x, zero, m.like(x, float("nan")), x)
    edge = m.when("==", x, zero, m.like(x, float("-inf")), below)
    return b.select(inside, value, edge)
