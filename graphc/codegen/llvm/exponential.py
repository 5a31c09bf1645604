"""exp, expm1, sigmoid and tanh as polynomials.

Cody and Waite's reduction: n is the whole number next to x / ln 2 and r = x - n ln 2, with ln 2 in
two parts so that n times the first is exact. Then e**x = 2**n e**r with |r| <= ln(2) / 2.

Coefficients are minimax: Remez's exchange in 50-digit arithmetic on 1200 Chebyshev points. The
first three are rounded to the format in turn, the rest fitted again each time. The bounds beside
them are of the rounded coefficients, in exact arithmetic, on 3001 points.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.arithmetic import LOG2E, Arithmetic, format_of


@dataclass(frozen=True)
class Table:
    """Coefficients and limits of one format.

    exponential: E in e**r = 1 + r + r^2 E(r), |r| <= 0.3469; error of r + r^2 E relative to r.
    tangent: T in tanh x = x + x^3 T(x^2), |x| <= 0.6; relative error.
    lowest, highest: beyond them e**x is 0 and infinite.
    highest_expm1: e**x is infinite there and x / ln 2 still rounds to the largest exponent.
    flat: tanh is 1 from here on; so is 1 - e**(-2 flat).
    """

    exponential: tuple[float, ...]
    tangent: tuple[float, ...]
    lowest: float
    highest: float
    highest_expm1: float
    flat: float


TABLES = {
    "f32": Table(
        exponential=(  # 2^-26.1
            0.5,
            0.16666539013385773,
            0.04166661202907562,
            0.008367099799215794,
            0.001391762401908636,
        ),
        tangent=(  # 2^-28.4
            -0.33333298563957214,
            0.13331936299800873,
            -0.0537848100066185,
            0.020799625664949417,
            -0.005900068208575249,
        ),
        lowest=-104.0,
        highest=89.0,
        highest_expm1=88.8,
        flat=9.1,
    ),
    "f64": Table(
        exponential=(  # 2^-61.4
            0.5,
            0.16666666666666677,
            0.04166666666666667,
            0.008333333333321482,
            0.0013888888888878748,
            0.00019841269886290615,
            2.480158734966353e-05,
            2.755724418515716e-06,
            2.7557241037613714e-07,
            2.5109018902629648e-08,
            2.09279776387057e-09,
        ),
        tangent=(  # 2^-62.7
            -0.33333333333333326,
            0.13333333333331882,
            -0.05396825396727239,
            0.02186948850300915,
            -0.008863234874637374,
            0.0035921197811856005,
            -0.0014557648330840315,
            0.0005896254317276467,
            -0.0002375219549358646,
            9.250646008063513e-05,
            -3.1196787225542834e-05,
            6.511898873672862e-06,
        ),
        lowest=-746.0,
        highest=710.0,
        highest_expm1=709.9,
        flat=19.1,
    ),
}
TANGENT_END = 0.6


def exp(m: Arithmetic, x: ir.Value, at_most_zero: bool = False) -> ir.Value:
    """e**x; 0 and infinity beyond the format's range. `at_most_zero` promises x <= 0 or nan."""
    table = _table(x)
    if not at_most_zero:
        x = m.min(x, m.like(x, table.highest))
    k, r = reduced(m, m.max(x, m.like(x, table.lowest)), to_scale=True)
    return m.scale(exp_of_remainder(m, r, table.exponential), k)


def expm1(m: Arithmetic, x: ir.Value) -> ir.Value:
    """e**x - 1 without cancellation, as 2**n (e**r - 1) + (2**n - 1).

    All is halved, since 2**n itself overflows for the largest results.
    """
    b, form, table = m.builder, format_of(x.type), _table(x)
    inside = m.max(m.min(x, m.like(x, table.highest_expm1)), m.like(x, -40.0))
    k, r = reduced(m, inside)
    power = m.power_of_two(k, form, -1)
    half = m.fma(power, _expm1_of_remainder(m, r, table), b.fsub(power, m.like(x, 0.5)))
    # There x - 1 is x to the last place; halving would lose the last bit of a denormal.
    tiny = m.like(x, 2.0 ** -(form.mantissa + 2))
    return m.when("<", m.abs(x), tiny, x, b.fadd(half, half))


def sigmoid(m: Arithmetic, x: ir.Value) -> ir.Value:
    """1 / (1 + e**-x) as 2**n / (2**n + 1 + (e**-r - 1)), relatively right for x << 0 too."""
    b, table = m.builder, _table(x)
    one = m.like(x, 1.0)
    inside = m.max(m.min(x, m.like(x, 2 * table.flat)), m.like(x, table.lowest))
    k, r = reduced(m, inside)
    power = m.scale(one, k)
    # Where 2**n is half a unit of 1, what this sum rounds off is a whole unit of the result.
    whole = b.fadd(power, one)
    lost = b.fsub(power, b.fsub(whole, one))
    rest = b.fadd(_expm1_of_remainder(m, b.fneg(r), table), lost)
    return b.fdiv(power, b.fadd(whole, rest))


def tanh(m: Arithmetic, x: ir.Value) -> ir.Value:
    """x + x^3 T(x^2) near 0, else 1 - 2 / (e**2|x| + 1) with the sign of x."""
    b, form, table = m.builder, format_of(x.type), _table(x)
    one = m.like(x, 1.0)
    a = m.min(m.abs(x), m.like(x, table.flat))
    k, r = reduced(m, b.fadd(a, a))
    power = m.power_of_two(k, form)
    divisor = m.fma(power, _expm1_of_remainder(m, r, table), b.fadd(power, one))
    large = b.fsub(one, b.fdiv(m.like(x, 2.0), divisor))
    square = b.fmul(a, a)
    small = m.fma(b.fmul(m.polynomial(square, table.tangent), square), a, a)
    return m.copysign(m.when("<", a, m.like(x, TANGENT_END), small, large), x)


def reduced(m: Arithmetic, x: ir.Value, to_scale: bool = False) -> tuple[ir.Value, ir.Value]:
    """(k, r): x = n ln 2 + r, |r| <= ln(2) / 2; k as `Arithmetic.nearest` gives it for n."""
    form = format_of(x.type)
    n, k = m.nearest(m.builder.fmul(x, m.like(x, LOG2E)), to_scale)
    r = m.fma(n, m.like(x, -form.ln2_high), x)
    return k, m.fma(n, m.like(x, -form.ln2_low), r)


def exp_of_remainder(m: Arithmetic, r: ir.Value, coefficients: tuple[float, ...]) -> ir.Value:
    """e**r = 1 + r + r^2 E(r)."""
    return m.polynomial(r, (1.0, 1.0, *coefficients))


def _expm1_of_remainder(m: Arithmetic, r: ir.Value, table: Table) -> ir.Value:
    square = m.builder.fmul(r, r)
    return m.fma(m.polynomial(r, table.exponential), square, r)


def _table(x: ir.Value) -> Table:
    return TABLES[format_of(x.type).suffix]
