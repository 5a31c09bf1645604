"""Joined kernels give what the two gave one after the other."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.error import NetError
from graphc.kernel.contraction import match
from graphc.kernel.facts import needs_old
from graphc.kernel.interp import interpret
from graphc.kernel.join import canonical, join, join_siblings
from graphc.kernel.lang import (
    INDEX,
    Axis,
    Buffer,
    Const,
    Expr,
    Fold,
    Kernel,
    Let,
    Load,
    Local,
    Statement,
    Store,
    Var,
    call,
)
from graphc.kernel.reading import parse_kernel
from graphc.kernel.text import print_kernel
from graphc.kernel.verify import verify

PRODUCT = parse_kernel(
    """kernel product(x: float32[4, 6], w: float32[5, 6], y: float32[4, 5]) each n:4 f:5
    t = sum c:6 mul(x[n, c], w[f, c])
    y[n, f] = t"""
)
BIAS = parse_kernel(
    """kernel bias(x: float32[4, 5], b: float32[5], y: float32[4, 5]) each i:4 j:5
    y[i, j] = add(x[i, j], b[j])"""
)
RELU = parse_kernel(
    """kernel relu(x: float32[4, 5], y: float32[4, 5]) each i:4 j:5
    y[i, j] = max(x[i, j], 0.0)"""
)
SUM = parse_kernel(
    """kernel sum(a: float32[4, 5], b: float32[4, 5], y: float32[4, 5]) each i:4 j:5
    y[i, j] = add(a[i, j], b[i, j])"""
)
SOFTMAX = parse_kernel(
    """kernel softmax(x: float32[4, 5], y: float32[4, 5]) each i:4
    top = max c:5 x[i, c]
    mass = sum c:5 exp(sub(x[i, c], top))
    y[i, c] = div(exp(sub(x[i, c], top)), mass) for c:5"""
)
LABEL = """k = int64(label[i])
    check and(le(0, k), lt(k, 5)), "label", k
    j = min(max(k, 0), 4)
    top = max c:5 x[i, c]
    mass = sum c:5 exp(sub(x[i, c], top))
    """
ONE_HOT = "select(eq(c, j), 1.0, 0.0)"
LOSS = parse_kernel(
    f"""kernel loss(x: float32[4, 5], label: float32[4], y: float32[4]) each i:4
    {LABEL}y[i] = sub(log(mass), sub(x[i, j], top))"""
)
GRADIENT = parse_kernel(
    f"""kernel g(x: float32[4, 5], label: float32[4], d: float32[4], y: float32[4, 5]) each i:4
    {LABEL}y[i, c] = mul(d[i], sub(div(exp(sub(x[i, c], top)), mass), {ONE_HOT})) for c:5"""
)

Step = tuple[Kernel, tuple[str, ...]]


def _draw(kernel: Kernel, rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.integers(0, 4, b.shape).astype(b.dtype) for b in kernel.buffers]


def _memory(calls: list[Step], rng: np.random.Generator) -> dict[str, np.ndarray]:
    memory: dict[str, np.ndarray] = {}
    for kernel, names in calls:
        for name, array in zip(names, _draw(kernel, rng), strict=True):
            memory.setdefault(name, array)
    return memory


def _run(calls: list[Step], memory: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    memory = {name: array.copy() for name, array in memory.items()}
    for kernel, names in calls:
        interpret(kernel, [memory[name] for name in names])
    return memory


def _same(made: Step, calls: list[Step], gone: set[str], seed: int = 0) -> None:
    """One joined call equals the calls, in every array but those that are gone."""
    verify(made[0])
    memory = _memory(calls, np.random.default_rng(seed))
    expected, found = _run(calls, memory), _run([made], memory)
    for name in expected:
        if name not in gone:
            assert np.array_equal(found[name], expected[name]), print_kernel(made[0])


def _joined(made: Step | str) -> Step:
    assert not isinstance(made, str), made
    return made


def test_bias_relu_and_a_residual_ride_behind_the_sum() -> None:
    calls = [
        (PRODUCT, ("x", "w", "p")),
        (BIAS, ("p", "b", "q")),
        (SUM, ("q", "old", "r")),
        (RELU, ("r", "y")),
    ]
    made = calls[0]
    for step, passed in zip(calls[1:], "pqr", strict=True):
        made = _joined(join(*made, *step, {passed}))
    assert made[1] == ("x", "w", "b", "old", "y")
    assert made[0].name == "product+bias+sum+relu"
    assert match(made[0]) is not None
    _same(made, calls, {"p", "q", "r"})


def test_a_value_that_others_read_is_stored_as_well() -> None:
    calls = [(PRODUCT, ("x", "w", "p")), (RELU, ("p", "y"))]
    made = _joined(join(*calls[0], *calls[1]))
    assert made[1] == ("x", "w", "p", "y")
    assert match(made[0]) is not None
    _same(made, calls, set())


def test_one_array_passed_twice_is_one_argument() -> None:
    calls = [(RELU, ("x", "p")), (SUM, ("p", "p", "y"))]
    made = _joined(join(*calls[0], *calls[1], {"p"}))
    assert made[1] == ("x", "y")
    _same(made, calls, {"p"})
    calls = [(RELU, ("x", "p")), (SUM, ("p", "x", "y"))]
    made = _joined(join(*calls[0], *calls[1], {"p"}))
    assert made[1] == ("x", "y")
    _same(made, calls, {"p"})


def test_loops_of_extent_one_do_not_keep_kernels_apart() -> None:
    wide = parse_kernel(
        """kernel wide(x: float32[1, 4, 5], y: float32[1, 4, 5]) each n:1 i:4 j:5
        y[n, i, j] = mul(x[n, i, j], 2.0)"""
    )
    flat = parse_kernel(
        """kernel flat(x: float32[1, 4, 5], y: float32[4, 5]) each i:4 j:5
        y[i, j] = x[0, i, j]"""
    )
    for calls in (
        [(wide, ("x", "p")), (flat, ("p", "y"))],
        [(flat, ("x", "p")), (RELU, ("p", "y"))],
        [(wide, ("x", "p")), (wide, ("p", "y"))],
    ):
        _same(_joined(join(*calls[0], *calls[1], {"p"})), calls, {"p"})


def test_own_loops_join_where_they_go_together() -> None:
    scale = parse_kernel(
        """kernel scale(p: float32[4, 5], y: float32[4, 5]) each i:4
        y[i, k] = mul(p[i, k], 2.0) for k:5"""
    )
    calls = [(SOFTMAX, ("x", "p")), (scale, ("p", "y"))]
    _same(_joined(join(*calls[0], *calls[1], {"p"})), calls, {"p"})
    square = parse_kernel(
        """kernel square(p: float32[4, 5], y: float32[4]) each i:4
        t = sum k:5 mul(p[i, k], p[i, k])
        u = max k:5 p[i, k]
        y[i] = add(t, u)"""
    )
    calls = [(SOFTMAX, ("x", "p")), (square, ("p", "y"))]
    _same(_joined(join(*calls[0], *calls[1])), calls, set())
    reason = join(*calls[0], *calls[1], {"p"})
    assert isinstance(reason, str) and "computed again" in reason


def test_a_constant_goes_wherever_it_is_read() -> None:
    ones = parse_kernel("kernel ones(y: float32[4])\ny[k] = 1.0 for k:4")
    calls = [(ones, ("d",)), (GRADIENT, ("x", "label", "d", "y"))]
    made = _joined(join(*calls[0], *calls[1], {"d"}))
    assert made[1] == ("x", "label", "y")
    _same(made, calls, {"d"})


def test_a_loss_and_its_gradient_share_one_sweep() -> None:
    calls = [(LOSS, ("x", "label", "l")), (GRADIENT, ("x", "label", "d", "dx"))]
    made = _joined(join_siblings(*calls[0], *calls[1]))
    assert made[1] == ("x", "label", "d", "l", "dx")
    assert len([s for s in made[0].body if isinstance(s, Fold)]) == 2
    assert len(made[0].body) == len(GRADIENT.body) + 1
    _same(made, calls, set())


def test_equal_work_becomes_equal_text() -> None:
    other = parse_kernel(print_kernel(BIAS).replace("i:", "row:").replace("[i,", "[row,"))
    assert other != BIAS and canonical(other) == canonical(BIAS)
    made = join(PRODUCT, ("x", "w", "p"), BIAS, ("p", "b", "y"), {"p"})
    again = join(PRODUCT, ("q", "r", "s"), other, ("s", "t", "u"), {"s"})
    assert not isinstance(made, str) and not isinstance(again, str)
    assert made[0] == again[0]


TRANSPOSE = parse_kernel(
    """kernel turn(x: float32[4, 4], y: float32[4, 4]) each i:4 j:4
    y[i, j] = x[j, i]"""
)
SQUARE = parse_kernel(
    """kernel square(x: float32[4, 4], y: float32[4, 4]) each i:4 j:4
    y[i, j] = mul(x[i, j], x[i, j])"""
)
ROWS = parse_kernel(
    """kernel rows(x: float32[4, 5], y: float32[4]) each i:4
    t = sum j:5 x[i, j]
    y[i] = t"""
)
GUARDED = parse_kernel(
    """kernel part(x: float32[4, 5], y: float32[4, 5]) each i:4 j:5
    y[i, j] = x[i, j] where lt(i, 3)"""
)
OTHER = parse_kernel(
    """kernel other(x: float32[4, 5], v: float32[4, 5], y: float32[4, 5]) each i:4 j:5
    t = sum k:4 mul(x[k, j], v[i, k])
    y[i, j] = t"""
)


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ((RELU, ("x", "p")), (ROWS, ("p", "y")), "different iterations: 4 x 5 and 4"),
        ((RELU, ("x", "p")), (RELU, ("q", "y")), "reads nothing that 'relu' stores"),
        ((GUARDED, ("x", "p")), (RELU, ("p", "y")), "stores p in parts"),
        ((RELU, ("x", "p")), (RELU, ("p", "x")), "stores x, which 'relu' reads"),
        ((PRODUCT, ("x", "w", "p")), (OTHER, ("p", "v", "y")), "but an iteration of"),
        ((RELU, ("x", "p")), (SUM, ("p", "x", "p")), "gets p twice"),
    ],
)
def test_no_joining_and_the_reason(first: Step, second: Step, words: str) -> None:
    reason = join(*first, *second, {"p"} if "p" in second[1] else ())
    assert isinstance(reason, str) and words in reason


def test_a_transposed_reader_runs_in_the_order_of_its_producer() -> None:
    calls = [(SQUARE, ("x", "p")), (TRANSPOSE, ("p", "y"))]
    _same(_joined(join(*calls[0], *calls[1], {"p"})), calls, {"p"})


def test_a_contraction_is_not_lost() -> None:
    reason = join_siblings(PRODUCT, ("x", "w", "y"), RELU, ("x", "z"))
    assert isinstance(reason, str)
    rows = parse_kernel(
        """kernel sums(x: float32[4, 6], z: float32[4, 5]) each n:4 f:5
        t = sum c:6 x[n, c]
        z[n, f] = t"""
    )
    reason = join_siblings(PRODUCT, ("x", "w", "y"), rows, ("x", "z"))
    assert isinstance(reason, str) and "would be lost" in reason


def test_siblings_that_depend_on_each_other_are_refused() -> None:
    reason = join_siblings(RELU, ("x", "p"), SUM, ("p", "x", "y"))
    assert isinstance(reason, str) and "reads p, which 'relu' stores" in reason
    reason = join_siblings(RELU, ("x", "p"), RELU, ("q", "y"))
    assert isinstance(reason, str) and "share no input" in reason


# -- random kernels -------------------------------------------------------------------------------


class _Author:
    """Random kernels over two loops of [3, 2]: any of them in `each`, the others own loops."""

    def __init__(self, rng: np.random.Generator, inputs: tuple[str, ...], outputs: tuple[str, ...]):
        self.rng = rng
        self.inputs = tuple(self.buffer(name) for name in inputs)
        self.outputs = tuple(self.buffer(name) for name in outputs)
        axes = (Axis("i", 3), Axis("j", 2))
        split = int(rng.integers(0, 3))
        self.each, self.own = axes[:split], axes[split:]
        if rng.random() < 0.2:
            self.each = self.each[::-1]
        self.index = tuple(Var(axis) for axis in axes)
        self.locals: list[Local] = []

    @staticmethod
    def buffer(name: str) -> Buffer:
        return Buffer(name, "float64", (3, 2), (2, 1))

    def load(self, own: bool) -> Expr:
        buffer = self.inputs[self.rng.integers(len(self.inputs))]
        index: list[Expr] = [
            var if own or var.axis in self.each else Const(0, INDEX) for var in self.index
        ]
        if self.rng.random() < 0.15:
            index[self.rng.integers(2)] = Const(int(self.rng.integers(2)), INDEX)
        return Load(buffer, tuple(index))

    def value(self, own: bool) -> Expr:
        parts = [*self.locals, self.load(own), self.load(own)]
        first, second = (parts[i] for i in self.rng.integers(len(parts), size=2))
        return call(str(self.rng.choice(["add", "sub", "max", "mul"])), first, second)

    def statement(self) -> Statement:
        local = Local(f"t{len(self.locals)}", "float64")
        if self.own and self.rng.random() < 0.7:
            made: Statement = Fold("sum", (local,), (self.value(True),), self.own)
        else:
            made = Let(local, self.value(False))
        self.locals.append(local)
        return made

    def kernel(self, name: str) -> Kernel:
        body = [self.statement() for _ in range(self.rng.integers(0, 3))]
        stores = [Store(b, self.index, self.value(True), self.own) for b in self.outputs]
        return Kernel(name, self.inputs, self.outputs, self.each, (*body, *stores))


def test_random_pairs() -> None:
    rng = np.random.default_rng(2)
    joined = refused = siblings = 0
    for turn in range(600):
        first = _Author(rng, ("a", "b"), ("p", "q")).kernel("first")
        second = _Author(rng, ("p", "q", "a"), ("y", "z")).kernel("second")
        third = _Author(rng, ("a", "b"), ("u",)).kernel("third")
        try:
            for kernel in (first, second, third):
                verify(kernel)
        except NetError:
            continue
        drop = {name for name in "pq" if rng.random() < 0.5}
        names = [tuple(b.name for b in k.buffers) for k in (first, second, third)]
        made = join(first, names[0], second, names[1], drop)
        if isinstance(made, str):
            refused += 1
        else:
            joined += 1
            _same(made, [(first, names[0]), (second, names[1])], drop, turn)
            assert not any(needs_old(made[0], b) for b in made[0].outputs if b not in drop)
        made = join_siblings(first, names[0], third, names[2])
        if not isinstance(made, str):
            siblings += 1
            _same(made, [(first, names[0]), (third, names[2])], set(), turn)
    assert joined > 30 and refused > 30 and siblings > 30
