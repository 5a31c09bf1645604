"""Random bits from a counter, inline: the same numbers as graphc.kernel.philox, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.arithmetic import INT32, Arithmetic, reshaped
from graphc.kernel.philox import (
    DRAW_BITS,
    DRAWS,
    HIGH_STEP,
    KEY_STEP,
    MULTIPLIER,
    ROUNDS,
    STREAM_STEP,
    WORD,
)

INT16, INT64 = ir.IntType(DRAW_BITS), ir.IntType(64)


def round_keys(m: Arithmetic, key: ir.Value, stream: int, lanes: int) -> list[ir.Value]:
    """The keys of all rounds in `lanes` lanes, 0 for numbers. key is one i64."""
    b = m.builder
    folded = b.add(key, b.mul(_high(m, key), ir.Constant(INT64, HIGH_STEP)))
    word = b.add(folded, ir.Constant(INT64, (stream * STREAM_STEP) & WORD))
    type_ = ir.VectorType(INT64, lanes) if lanes else INT64
    words = [b.add(word, ir.Constant(INT64, turn * KEY_STEP & WORD)) for turn in range(ROUNDS)]
    return [_spread(m, _low(m, each), type_) for each in words]


def random_bits(
    m: Arithmetic, keys: Sequence[ir.Value], counter: ir.Value, small: bool = False
) -> ir.Value:
    """16 random bits, an i16 for each i64 of `counter`; keys in as many lanes.

    small: no counter is below 0, or has a block whose number takes more than 32 bits.
    """
    b = m.builder
    words = _blocks(m, keys, b.udiv(counter, m.like(counter, DRAWS)), small)
    place = b.urem(counter, m.like(counter, DRAWS))
    drawn = b.lshr(words, b.mul(place, m.like(place, DRAW_BITS)))
    return b.trunc(drawn, reshaped(counter.type, INT16))


def random_row(
    m: Arithmetic, keys: Sequence[ir.Value], counter: ir.Value, small: bool = False
) -> ir.Value:
    """The same for neighbouring counters from one i64, a multiple of DRAWS, on.

    There are DRAWS for each lane of the keys, so that no block is computed twice.
    """
    b, type_ = m.builder, keys[0].type
    first = _spread(m, b.udiv(counter, ir.Constant(INT64, DRAWS)), type_)
    numbers = ir.Constant(type_, list(range(type_.count)))
    words = _blocks(m, keys, b.add(first, numbers), small)
    return b.bitcast(words, ir.VectorType(INT16, type_.count * DRAWS))


def _blocks(m: Arithmetic, keys: Sequence[ir.Value], block: ir.Value, small: bool) -> ir.Value:
    """Both output words of each block, the first in the low half of an i64.

    A round is a multiplication of the low halves, one instruction for vectors, a shift and an
    exclusive or: upper halves are left as they come, since nothing looks at them.
    """
    b = m.builder
    first, second = block, m.like(block, 0) if small else _high(m, block)
    for key in keys:
        product = b.mul(_low(m, first), m.like(first, MULTIPLIER))
        first, second = b.xor(b.xor(_high(m, product), second), key), product
    return b.or_(_low(m, first), b.shl(second, m.like(second, 32)))


def _low(m: Arithmetic, x: ir.Value) -> ir.Value:
    return m.builder.and_(x, m.like(x, WORD))


def _high(m: Arithmetic, x: ir.Value) -> ir.Value:
    return m.builder.lshr(x, m.like(x, 32))


def _spread(m: Arithmetic, scalar: ir.Value, type_: ir.Type) -> ir.Value:
    """A scalar in every lane of a type."""
    if not isinstance(type_, ir.VectorType):
        return scalar
    b, nothing = m.builder, ir.Constant(type_, ir.Undefined)
    lane = b.insert_element(nothing, scalar, ir.Constant(INT32, 0))
    mask = ir.Constant(ir.VectorType(INT32, type_.count), [0] * type_.count)
    return b.shuffle_vector(lane, nothing, mask)
