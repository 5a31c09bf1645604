"""Which kernels are contractions, and that the form read off them means the same."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from graphc.kernel.contraction import Contraction, Operand, match
from graphc.kernel.interp import interpret
from graphc.kernel.lang import Axis, Kernel, Load
from graphc.kernel.reading import parse_kernel
from graphc.kernel.verify import verify


def _inside(index: str, extent: int) -> str:
    return f"and(le(0, {index}), lt({index}, {extent}))"


PRODUCT = """kernel product(x: int64[4, 6], w: int64[5, 6], y: int64[4, 5]) each n:4 f:5
    t = sum c:6 mul(x[n, c], w[f, c])
    y[n, f] = t"""

# Stride 2, padding 1, kernel 3, dilation 1, over rows of 5.
ROW = "sub(add(mul(p, 2), r), 1)"
CONV = f"""kernel conv(x: int64[3, 5], w: int64[4, 3, 3], y: int64[4, 3]) each f:4 p:3
    t = sum c:3 r:3 mul(x[c, {ROW}], w[f, c, r]) where {_inside(ROW, 5)}
    y[f, p] = t"""

# The data gradient of it: only numerators that 2 divides count.
NUMERATOR = "sub(add(h, 1), r)"
QUOTIENT = f"floordiv({NUMERATOR}, 2)"
EXACT = f"eq(mod({NUMERATOR}, 2), 0)"
GRADIENT = f"""kernel gradient(d: int64[4, 3], w: int64[4, 3, 3], y: int64[3, 5]) each c:3 h:5
    t = sum f:4 r:3 mul(d[f, {QUOTIENT}], w[f, c, r]) where and({_inside(QUOTIENT, 3)}, {EXACT})
    y[c, h] = t"""
BY_NUMERATOR = GRADIENT.replace(
    _inside(QUOTIENT, 3), f"and(le(0, {NUMERATOR}), lt({NUMERATOR}, 6))"
)

MORE = "y: int64[4, 5], z: int64[4, 5]"
EPILOGUE = f"""kernel relu(x: int64[4, 6], w: int64[5, 6], b: int64[5], {MORE}) each n:4 f:5
    t = sum c:6 mul(x[n, c], w[f, c])
    s = add(t, b[f])
    y[n, f] = s
    z[n, f] = max(s, 0)"""

MATCHED = {
    "product": PRODUCT,
    "conv": CONV,
    "gradient": GRADIENT,
    "gradient, tested before dividing": BY_NUMERATOR,
    "an exact division": """kernel even(x: int64[4], w: int64[4], y: int64[3]) each i:3
        t = sum c:2 mul(x[floordiv(add(mul(i, 2), mul(c, 2)), 2)], w[c])
        y[i] = t""",
    "a test that always holds": PRODUCT.replace("w[f, c])\n", "w[f, c]) where lt(c, 6)\n"),
    "epilogue": EPILOGUE,
}


def _value(operand: Operand, array: np.ndarray, at: dict[Axis, int]) -> int:
    """The factor at one point of the loops; 0 where an index is outside or inexact."""
    place = []
    for position, extent in zip(operand.index, array.shape, strict=True):
        form = position.affine
        number = form.constant + sum(factor * at[axis] for axis, factor in form.terms)
        if number % position.divisor:
            assert position.guarded
            return 0
        number //= position.divisor
        if not 0 <= number < extent:
            assert position.guarded
            return 0
        place.append(number)
    return int(array[tuple(place)])


def _by_form(found: Contraction, memory: dict[str, np.ndarray]) -> None:
    """Compute a contraction that stores its plain sum, from its form alone."""
    for point in itertools.product(*(range(a.extent) for a in found.each)):
        at = dict(zip(found.each, point, strict=True))
        value = 0
        for inner in itertools.product(*(range(a.extent) for a in found.over)):
            at.update(zip(found.over, inner, strict=True))
            left = _value(found.left, memory[found.left.buffer.name], at)
            value += left * _value(found.right, memory[found.right.buffer.name], at)
        (store,) = found.stores
        assert store.value == found.fold.locals[0]
        memory[store.buffer.name][point] = value


@pytest.mark.parametrize("name", [n for n in MATCHED if n != "epilogue"])
def test_the_form_means_what_the_kernel_does(name: str) -> None:
    kernel = parse_kernel(MATCHED[name])
    verify(kernel)
    found = match(kernel)
    assert found is not None
    rng = np.random.default_rng(0)
    arrays = [rng.integers(-5, 6, b.shape) for b in kernel.buffers]
    memory = {b.name: a.copy() for b, a in zip(kernel.buffers, arrays, strict=True)}
    interpret(kernel, arrays)
    _by_form(found, memory)
    assert np.array_equal(memory["y"], arrays[-1])


def test_the_epilogue_holds_no_locals_but_the_sum() -> None:
    kernel = parse_kernel(EPILOGUE)
    found = match(kernel)
    assert found is not None and len(found.stores) == 2
    rng = np.random.default_rng(0)
    arrays = [rng.integers(-5, 6, b.shape) for b in kernel.buffers]
    again = [a.copy() for a in arrays]
    interpret(kernel, arrays)
    verify(found.scheduled)
    interpret(found.scheduled, again)
    assert all(map(np.array_equal, arrays, again))


def test_its_indices_say_padding_and_strides() -> None:
    found = match(parse_kernel(CONV))
    assert found is not None
    padded = [position.guarded for position in found.left.index]
    assert padded == [False, True]
    p, r, c = found.each[1], found.over[1], found.over[0]
    assert (found.left.stride(p), found.left.stride(r), found.left.stride(c)) == (2, 1, 5)
    gradient = match(parse_kernel(GRADIENT))
    assert gradient is not None
    assert [p.divisor for p in gradient.left.index] == [1, 2]
    assert isinstance(gradient.fold.values[0].children()[0], Load)


REFUSED = {
    "the guard keeps less than the inside": CONV.replace(_inside(ROW, 5), _inside(ROW, 4)),
    "the guard is about something else": CONV.replace(
        _inside(ROW, 5), f"and({_inside(ROW, 5)}, lt(r, p))"
    ),
    "half a guard": CONV.replace(_inside(ROW, 5), f"le(0, {ROW})"),
    "a quotient rounded down": GRADIENT.replace(
        f"and({_inside(QUOTIENT, 3)}, {EXACT})", _inside(QUOTIENT, 3)
    ),
    "a sum without a product": PRODUCT.replace("mul(x[n, c], w[f, c])", "x[n, c]"),
    "a sum of squares": PRODUCT.replace("w[f, c]", "x[n, c]"),
    "another fold": PRODUCT.replace("sum", "max"),
    "a data index": PRODUCT.replace("x[n, c]", "x[n, min(max(x[n, c], 0), 5)]"),
    "a check": PRODUCT + '\ncheck le(0, t), "below 0", t',
    "a store with a guard": PRODUCT.replace("y[n, f] = t", "y[n, f] = t where lt(n, f)"),
    "two folds": PRODUCT + "\nu = sum c:6 x[n, c]\ny[n, f] += u",
    "two sums": PRODUCT.replace("t = sum", "t, u = sum").replace("c])\n", "c]), x[n, c]\n"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_contraction_is_not_matched(name: str) -> None:
    kernel: Kernel = parse_kernel(REFUSED[name])
    assert match(kernel) is None
    assert REFUSED[name] not in MATCHED.values()
