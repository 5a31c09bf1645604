"""Instructions on scalars and vectors alike: what the vector functions are written in.

Every method takes LLVM values of one real type (float, double, or a vector of them) and gives a
value of the same shape. `Format` holds what differs between the two real types.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.target import Target

INT32 = ir.IntType(32)
LN2 = math.log(2)
LOG2E = 1 / LN2


@dataclass(frozen=True)
class Format:
    """A binary floating-point format and the constants that depend on it alone.

    ln2_high has so few bits that its product with any exponent is exact; ln2_high + ln2_low is
    ln 2 to twice the format's precision (computed with 50 decimal digits).
    """

    suffix: str
    real: ir.Type
    integer: ir.IntType
    mantissa: int
    bias: int
    ln2_high: float
    ln2_low: float

    @property
    def rounder(self) -> float:
        """Added to |x| < 2**(mantissa - 1), it leaves the nearest whole number in the low bits."""
        return 1.5 * 2.0**self.mantissa

    def bits(self, number: float) -> int:
        """The bits of a number, read as a signed integer."""
        codes = {"f32": ("<f", "<i"), "f64": ("<d", "<q")}[self.suffix]
        return int(struct.unpack(codes[1], struct.pack(codes[0], number))[0])

    def rounded(self, number: float) -> float:
        """The format's number next to `number`; infinite beyond its range."""
        code = {"f32": "<f", "f64": "<d"}[self.suffix]
        try:
            return float(struct.unpack(code, struct.pack(code, number))[0])
        except OverflowError:
            return math.copysign(math.inf, number)


FLOAT32 = Format("f32", ir.FloatType(), INT32, 23, 127, 0.693145751953125, 1.4286068203094173e-06)
FLOAT64 = Format(
    "f64",
    ir.DoubleType(),
    ir.IntType(64),
    52,
    1023,
    0.6931471803691238,
    1.9082149292705877e-10,
)


def element(type_: ir.Type) -> ir.Type:
    """The type of one lane."""
    return type_.element if isinstance(type_, ir.VectorType) else type_


def reshaped(type_: ir.Type, lane: ir.Type) -> ir.Type:
    """A type with as many lanes as `type_`, each a `lane`."""
    return ir.VectorType(lane, type_.count) if isinstance(type_, ir.VectorType) else lane


def format_of(type_: ir.Type) -> Format:
    """The format of a real type's lanes."""
    return FLOAT64 if isinstance(element(type_), ir.DoubleType) else FLOAT32


REGISTER = {"f32": 16, "f64": 8}  # lanes of the instructions of AVX-512 that are called by name


def _lane_order(order: list[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(INT32, len(order)), order)


class Arithmetic:
    """Emits into `builder`; intrinsics are declared in `module`; `target` says what is native."""

    def __init__(self, builder: ir.IRBuilder, module: ir.Module, target: Target):
        self.builder = builder
        self.module = module
        self.target = target

    # -- constants and bits --

    def constant(self, number: float, type_: ir.Type) -> ir.Constant:
        """`number` in every lane of a type; a whole number for a type of integers."""
        if isinstance(type_, ir.VectorType):
            return ir.Splat(type_, number)
        return ir.Constant(type_, number)

    def like(self, x: ir.Value, number: float) -> ir.Constant:
        """A constant of the type of x."""
        return self.constant(number, x.type)

    def as_bits(self, x: ir.Value) -> ir.Value:
        """The bits of x as integers of its size."""
        return self.builder.bitcast(x, reshaped(x.type, format_of(x.type).integer))

    def as_real(self, bits: ir.Value, form: Format) -> ir.Value:
        """Bits back to numbers."""
        return self.builder.bitcast(bits, reshaped(bits.type, form.real))

    # -- instructions --

    def intrinsic(self, name: str, result: ir.Type, *args: ir.Value) -> ir.Value:
        """Call an LLVM intrinsic by its full name, declaring it once a module."""
        function = self.module.declared(name, result, [value.type for value in args])
        return self.builder.call(function, args)

    def overloaded(self, name: str, *args: ir.Value) -> ir.Value:
        """An intrinsic whose arguments and result all have one real type, such as "fma"."""
        type_ = args[0].type
        lanes = f"v{type_.count}" if isinstance(type_, ir.VectorType) else ""
        return self.intrinsic(f"llvm.{name}.{lanes}{format_of(type_).suffix}", type_, *args)

    def fma(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """a * b + c, rounded once where the target can, else twice."""
        if self.target.has_fma:
            return self.overloaded("fma", a, b, c)
        return self.builder.fadd(self.builder.fmul(a, b), c)

    def polynomial(self, x: ir.Value, coefficients: Sequence[float]) -> ir.Value:
        """coefficients[0] + coefficients[1] x + ..., by Horner's rule."""
        value: ir.Value = self.like(x, coefficients[-1])
        for coefficient in reversed(coefficients[:-1]):
            value = self.fma(value, x, self.like(x, coefficient))
        return value

    def when(
        self, relation: str, a: ir.Value, b: ir.Value, yes: ir.Value, no: ir.Value
    ) -> ir.Value:
        """yes where `a relation b` holds, no elsewhere and wherever a or b is a nan."""
        return self.builder.select(self.builder.fcmp_ordered(relation, a, b), yes, no)

    def max(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """b where a < b, else a: std::max, one instruction. A nan in a stays, one in b is ignored.

        Integers are compared as signed.
        """
        return self._pick("<", a, b)

    def min(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """b where b < a, else a: std::min. A nan in a stays, one in b is ignored."""
        return self._pick(">", a, b)

    def _pick(self, relation: str, a: ir.Value, b: ir.Value) -> ir.Value:
        whole = isinstance(element(a.type), ir.IntType)
        compare = self.builder.icmp_signed if whole else self.builder.fcmp_ordered
        return self.builder.select(compare(relation, a, b), b, a)

    def abs(self, x: ir.Value) -> ir.Value:
        """Magnitude; that of a nan is a nan."""
        if isinstance(element(x.type), ir.IntType):
            return self.max(x, self.builder.neg(x))
        return self.overloaded("fabs", x)

    def copysign(self, magnitude: ir.Value, sign: ir.Value) -> ir.Value:
        """The magnitude of one with the sign bit of the other."""
        return self.overloaded("copysign", magnitude, sign)

    def round(self, x: ir.Value) -> ir.Value:
        """The nearest whole number, ties to the even one; keeps the sign of zero."""
        if self.target.has_rounding:
            return self.overloaded("roundeven", x)
        # Beyond 2**mantissa every number is whole, below the sum has no room for a fraction.
        b, whole = self.builder, self.like(x, 2.0 ** format_of(x.type).mantissa)
        magnitude = self.abs(x)
        rounded = b.fsub(b.fadd(magnitude, whole), whole)
        return self.copysign(self.when("<", magnitude, whole, rounded, magnitude), x)

    def floor(self, x: ir.Value) -> ir.Value:
        """The largest whole number that is not above x; keeps the sign of zero."""
        if self.target.has_rounding:
            return self.overloaded("floor", x)
        rounded = self.round(x)
        excess = self.when(">", rounded, x, self.like(x, 1.0), self.like(x, 0.0))
        return self.builder.fsub(rounded, excess)

    def sqrt(self, x: ir.Value) -> ir.Value:
        """Square root, correctly rounded; nan below zero, -0 of -0."""
        return self.overloaded("sqrt", x)

    def rsqrt(self, x: ir.Value) -> ir.Value:
        """1 / sqrt(x), by a square root and a division."""
        return self.builder.fdiv(self.like(x, 1.0), self.sqrt(x))

    def estimates_roots(self, type_: ir.Type) -> bool:
        """Whether 1 / sqrt of a type can be estimated to 14 bits: float32 lanes of AVX-512."""
        whole = element(type_) == FLOAT32.real and self._fills_registers(type_)
        return whole and self.target.has_estimates

    def rough_rsqrt(self, x: ir.Value) -> ir.Value:
        """1 / sqrt(x) for positive x to 14 bits; `estimates_roots` says for which types."""
        return self._by_register(self._estimate, x)

    def _estimate(self, x: ir.Value) -> ir.Value:
        every = ir.Constant(ir.IntType(x.type.count), -1)
        return self.intrinsic("llvm.x86.avx512.rsqrt14.ps.512", x.type, x, x, every)

    def _fills_registers(self, type_: ir.Type) -> bool:
        """Whether a type is lanes that fill registers of AVX-512."""
        count = type_.count if isinstance(type_, ir.VectorType) else 0
        return count > 0 and count % REGISTER[format_of(type_).suffix] == 0

    def _by_register(self, instruction: Callable[..., ir.Value], *args: ir.Value) -> ir.Value:
        """An instruction on all lanes, so many at a time as it takes."""
        wide, b = args[0].type.count, self.builder
        size = REGISTER[format_of(args[0].type).suffix]
        parts = []
        for first in range(0, wide, size):
            order = _lane_order(list(range(first, first + size)))
            parts.append(instruction(*(b.shuffle_vector(x, x, order) for x in args)))
        while len(parts) > 1:
            parts = [self._joined(*pair) for pair in zip(parts[::2], parts[1::2], strict=True)]
        return parts[0]

    def _joined(self, low: ir.Value, high: ir.Value) -> ir.Value:
        return self.builder.shuffle_vector(low, high, _lane_order(list(range(2 * low.type.count))))

    def sign(self, x: ir.Value) -> ir.Value:
        """-1, 0 or 1; zeros and nans as they are."""
        if isinstance(element(x.type), ir.IntType):
            return self.max(self.min(x, self.like(x, 1)), self.like(x, -1))
        as_it_is = self.builder.fcmp_unordered("==", x, self.like(x, 0.0))
        return self.builder.select(as_it_is, x, self.copysign(self.like(x, 1.0), x))

    # -- powers of two --

    def nearest(self, x: ir.Value, to_scale: bool = False) -> tuple[ir.Value, ir.Value]:
        """(n, k): the whole number n next to x, and k, the bits of n + rounder.

        For |x| < 2**(mantissa - 1). It needs no conversion, whose result a nan would leave
        undefined, and no rounding instruction. Between two whole numbers either may come.
        to_scale: k is for `scale` only, which takes n itself where that is an instruction.
        """
        if to_scale and self._scales(x.type):
            n = self.round(x)
            return n, n
        rounder = self.like(x, format_of(x.type).rounder)
        shifted = self.builder.fadd(x, rounder)
        return self.builder.fsub(shifted, rounder), self.as_bits(shifted)

    def power_of_two(self, k: ir.Value, form: Format, add: int = 0) -> ir.Value:
        """2**(n + add) from the k of `nearest`; the exponent must be that of a normal number."""
        b = self.builder
        exponent = b.sub(k, self.like(k, form.bits(form.rounder) - form.bias - add))
        return self.as_real(b.shl(exponent, self.like(k, form.mantissa)), form)

    def scale(self, x: ir.Value, k: ir.Value) -> ir.Value:
        """x * 2**n from the k of `nearest`, right where the result is denormal or overflows.

        |n| may be twice the format's largest exponent; x is about 1. Without an instruction for it
        the power is multiplied in two halves, so that only the second product can round.
        """
        b, form = self.builder, format_of(x.type)
        if k.type == x.type:
            return self._by_register(self._scale, x, k)
        if self.target.has_scaling:
            whole = b.sub(k, self.like(k, form.bits(form.rounder)))
            if form is FLOAT64:
                whole = b.trunc(whole, reshaped(x.type, INT32))
            lanes = f"v{x.type.count}" if isinstance(x.type, ir.VectorType) else ""
            name = f"llvm.ldexp.{lanes}{form.suffix}.{lanes}i32"
            return self.intrinsic(name, x.type, x, whole)
        exponent = b.sub(k, self.like(k, form.bits(form.rounder) - 2 * form.bias))
        half = b.lshr(exponent, self.like(k, 1))
        for part in (half, b.sub(exponent, half)):
            x = b.fmul(x, self.as_real(b.shl(part, self.like(k, form.mantissa)), form))
        return x

    def _scales(self, type_: ir.Type) -> bool:
        """Whether x * 2**n is an instruction on whole registers that takes n as a real number."""
        wide = self.target.has_scaling and self.target.vector_bytes == 64
        return wide and self._fills_registers(type_)

    def _scale(self, x: ir.Value, n: ir.Value) -> ir.Value:
        count = x.type.count
        suffix = "ps" if count == REGISTER["f32"] else "pd"
        every, as_set = ir.Constant(ir.IntType(count), -1), ir.Constant(INT32, 4)
        name = f"llvm.x86.avx512.mask.scalef.{suffix}.512"
        return self.intrinsic(name, x.type, x, n, x, every, as_set)
