"""Random bits from a counter, inline: the same numbers as graphc.kernel.philox, bit for bit."""

from __future__ import annotations

from llvmlite import ir

from graphc.codegen.llvm.arithmetic import INT32, Arithmetic, reshaped
from graphc.kernel.philox import HIGH_STEP, KEY_STEP, MULTIPLIER, ROUNDS, STREAM_STEP, WORD

INT64 = ir.IntType(64)


def random_bits(m: Arithmetic, key: ir.Value, stream: int, counter: ir.Value) -> ir.Value:
    """32 random bits, an i32 for each i64 of `counter`; key is one i64, stream a number."""
    first, second = _low(m, counter), _high(m, counter)
    word = _key_word(m, key, stream)
    for turn in range(ROUNDS):
        round_key = _low(m, m.builder.add(word, m.like(word, (turn * KEY_STEP) & WORD)))
        first, second = _round(m, first, second, _spread(m, round_key, counter.type))
    return m.builder.trunc(first, reshaped(counter.type, INT32))


def _round(
    m: Arithmetic, first: ir.Value, second: ir.Value, key: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """One round. Words stay in 64 bits, upper half zero: so the product is one instruction."""
    b = m.builder
    product = b.mul(first, m.like(first, MULTIPLIER))
    return b.xor(b.xor(_high(m, product), second), key), _low(m, product)


def _key_word(m: Arithmetic, key: ir.Value, stream: int) -> ir.Value:
    """The key of one stream; only its low 32 bits count."""
    b = m.builder
    folded = b.add(key, b.mul(_high(m, key), ir.Constant(INT64, HIGH_STEP)))
    return b.add(folded, ir.Constant(INT64, (stream * STREAM_STEP) & WORD))


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
