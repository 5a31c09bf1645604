"""Kernels as text, and the rules a kernel must keep."""

from __future__ import annotations

import pytest

from graphc.error import NetError
from graphc.kernel.lang import Axis, Buffer, Const, Kernel, Local, Store, Var
from graphc.kernel.reading import parse_kernel
from graphc.kernel.text import print_kernel
from graphc.kernel.verify import verify

SOFTMAX = """kernel softmax(x: float32[2, 5, 9], y: float32[2, 5, 9]) each o:2 i:9
  top = max c:5 x[o, c, i]
  mass = sum c:5 exp(sub(x[o, c, i], top))
  y[o, c, i] = div(exp(sub(x[o, c, i], top)), mass) for c:5
"""

EVERYTHING = """kernel a+b(x: float64[3, 4] strides (1, 3), n: int64[], y: float64[3, 4]) each i:3
  t1 = int64(x[i, 0])
  check and(le(0, t1), lt(t1, 4)), "no \\"label\\" # within 0 .. 3", t1
  t2, t3 = argmax c:4 x[i, c], c where not(eq(c, 2))
  t4, t5 = sum c:4 neg(x[i, c]), x[i, c]
  y[i, c] = select(lt(c, t3), -1.5:float64, inf:float64) for c:4
  y[i, min(max(t1, 0), 3)] += add(t2, add(t4, t5)) where true
  y[i, c] += float64(float32(t2)) for c:4 where lt(c, mod(random_bits(n[], 3, i), 4))
"""


@pytest.mark.parametrize("text", [SOFTMAX, EVERYTHING])
def test_round_trip(text: str) -> None:
    kernel = parse_kernel(text)
    verify(kernel)
    assert print_kernel(kernel) == text
    assert parse_kernel(print_kernel(kernel)) == kernel


def test_parts_of_a_parsed_kernel() -> None:
    kernel = parse_kernel(EVERYTHING)
    assert [b.name for b in kernel.inputs] == ["x", "n"]
    assert kernel.outputs == (Buffer("y", "float64", (3, 4), (4, 1)),)
    assert kernel.inputs[0].strides == (1, 3)
    assert kernel.each == (Axis("i", 3),)
    last = kernel.body[-1]
    assert isinstance(last, Store) and last.mode == "add" and last.axes == (Axis("c", 4),)


HEAD = "kernel k(x: float32[4], y: float32[4]) each i:4\n"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 1, "no 'kernel NAME(...)' line"),
        ("kernel k(x: float32[4)", 1, "expected ','"),
        ("kernel k(x: float16[4])", 1, "unknown element type 'float16'"),
        ("kernel k(x: float32[4], x: float32[4])", 1, "two buffers are called 'x'"),
        (HEAD + "y[i] = expp(x[i])", 2, "did you mean 'exp'?"),
        (HEAD + "\n# a comment\ny[i] = z[i]", 4, "no buffer is called 'z'"),
        (HEAD + "y[i] = x[k]", 2, "nothing here is called 'k'"),
        (HEAD + "y[i] = x[i, i]", 2, "x has 1 axes, an index has 2"),
        (HEAD + "y[i] = max(x[i])", 2, "'max' takes 2 arguments, not 1"),
        (HEAD + "y[i] = x[i] x[i]", 2, "did not expect 'x'"),
        (HEAD + "y[i] = x[i] ?", 2, "cannot read '?'"),
        (HEAD + "y[i] = 1.5:int32", 2, "1.5 is no int32"),
        (HEAD + "a, b = x[i]", 2, "only a fold sets several locals"),
        (HEAD + "a = sum c:4 x[c], x[c]", 2, "1 locals are set from 2 values"),
        (HEAD + "check lt(i, 4), message, i", 2, "quotes"),
    ],
)
def test_text_errors_name_the_line(text: str, line: int, words: str) -> None:
    with pytest.raises(NetError) as caught:
        parse_kernel(text)
    assert str(caught.value).startswith(f"kernel text, line {line}: ")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("t = x[i]", "nothing is stored to output y"),
        ("y[i] = x[add(i, 1)]", "runs over 1 .. 4, outside 0 .. 3"),
        ("y[i] = x[sub(i, 1)]", "runs over -1 .. 2"),
        ("y[0] = x[i]", "may store to the same element of y"),
        ("y[floordiv(i, 1)] = x[c] for c:4\ny[i] = x[c] for c:4", "may store to the same element"),
        ("y[0] += x[i]", "may store to the same element"),
        ("y[i] = mul(x[i], 2)", "mixes float32, int64"),
        ("y[i] = int32(x[i])", "holds float32, not int32"),
        ("y[i] = div(x[i], exp(float32(exp(i))))", "exp(i) wants reals"),
        ("y[i] = x[int32(i)]", "index int32(i) is int32"),
        ("y[i] = select(i, x[i], x[i])", "chooses by a int64"),
        ("y[i] = x[i] where i", "the guard is not a bool"),
        ("t = x[i]\nt = x[i]\ny[i] = t", "two things are called 't'"),
        ("x = x[i]\ny[i] = x", "two things are called 'x'"),
        ("t = sum i:4 x[i]\ny[i] = t", "loop of 'each' already"),
        ("t = sum c:4 x[c]\nu = sum c:3 x[c]\ny[i] = t", "c has two extents"),
        ("t, u = argmax c:4 x[c], lt(c, 2)\ny[i] = t", "a bool cannot be folded"),
        ("check i, \"no\", i\ny[i] = x[i]", "the condition is not a bool"),
    ],
)  # fmt: skip
def test_broken_rules(body: str, words: str) -> None:
    outputs = Buffer("y", "float32", (4,), (1,))
    kernel = parse_kernel(HEAD + body)
    kernel = Kernel(
        "k", (Buffer("x", "float32", (4,), (1,)),), (outputs,), kernel.each, kernel.body
    )
    with pytest.raises(NetError) as caught:
        verify(kernel)
    assert words in str(caught.value) and "kernel 'k'" in str(caught.value)


def test_what_text_cannot_say_is_refused_too() -> None:
    x, y = (Buffer(name, "float32", (4,), (1,)) for name in "xy")
    i, c = Axis("i", 4), Axis("c", 4)
    unset = Store(y, (Var(i),), Local("t", "float32"))
    loose = Store(y, (Var(c),), Const(1.0, "float32"))
    inputs_first = Store(x, (Var(i),), Const(1.0, "float32"))
    for store, words in (
        (unset, "t is used before it is set"),
        (loose, "nothing runs over c here"),
        (inputs_first, "x is not an output"),
    ):
        with pytest.raises(NetError, match=words):
            verify(Kernel("k", (x,), (y,), (i,), (store,)))


def test_guarded_indices_and_digits_of_a_flat_index_are_fine() -> None:
    verify(parse_kernel(HEAD + "y[i] = 0.0\ny[i] = x[sub(i, 1)] where le(1, i)"))
    verify(
        parse_kernel(
            "kernel flat(x: float32[12], y: float32[12]) each i:3 j:4\n"
            "y[add(mul(i, 4), j)] = x[add(i, mul(j, 3))]"
        )
    )
