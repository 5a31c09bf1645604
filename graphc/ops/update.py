"""How solvers change parameters: one operator for each method, and what prepares its gradient.

An update takes a parameter w, its gradient g, the method's history and the rate, and gives the new
parameter and the new history:

    w, v = SgdUpdate(momentum=0.9)(w, g, v, rate)

The rate is a 0-d input, so that it may change from call to call; `factor` is what the parameter's
own rate is multiplied by. Formulas are Caffe's, where they differ from the papers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from graphc.error import need
from graphc.ir.core.axes import Broadcast, Sum
from graphc.ir.graph import Value
from graphc.ir.op import Example, Op, away_from_zero, normal, operator, positive
from graphc.ir.types import TensorType
from graphc.kernel.build import Array, Writer
from graphc.kernel.lang import Expr
from graphc.ops.elementwise import Map


class Update(Op):
    """An operator (w, g, history..., rate) -> (new w, new history...); `change` says the rest."""

    gradient_stops = True
    histories: ClassVar[int] = 1

    @property
    def output_count(self) -> int:
        """The parameter and its histories."""
        return 1 + self.histories

    def change(self, k: Writer, rate: Expr, g: Expr, *history: Expr) -> tuple[Expr, ...]:
        """What is taken from w, then each new history, for one element."""
        raise NotImplementedError

    def infer(self, w: TensorType, *others: TensorType) -> tuple[TensorType, ...]:
        *same, rate = others
        need(
            len(same) == 1 + self.histories and all(type == w for type in same) and w.is_real,
            f"{self.op_name} needs a parameter, its gradient and {self.histories} histories of one"
            f" type, not {', '.join(map(str, (w, *same)))}",
        )
        need(rate == w.with_shape(), f"{self.op_name} needs one number as rate, not {rate}")
        return (w,) * self.output_count

    def kernel(self, k: Writer, w: Array, g: Array, *others: Array) -> None:
        history = others[: self.histories]
        rate, *results = others[self.histories :]
        i = tuple(k.each(*w.shape))
        step = k.let(rate[()] * self.fields()["factor"])
        olds = [k.let(old[i]) for old in history]
        change, *news = self.change(k, step, k.let(g[i]), *olds)
        # All is read before anything is stored, so that the new may lie where the old was.
        values = [k.let(w[i] - change), *news]
        for result, value in zip(results, values, strict=True):
            result[i] = value

    @classmethod
    def sampled(cls, op: Op) -> Iterator[Example]:
        """The operator on a matrix and on a single number; histories of squares are positive."""
        for shape in ((3, 4), ()):
            history = [positive(*shape) for _ in range(cls.histories)]
            yield Example(op, normal(*shape), normal(*shape), *history, positive())


@operator
class SgdUpdate(Update):
    """Gradient descent with momentum: v = momentum v + rate g; w - v. The rate is inside v."""

    momentum: float = 0.0
    factor: float = 1.0

    def reference(
        self, w: np.ndarray, g: np.ndarray, v: np.ndarray, rate: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        v = self.momentum * v + rate * self.factor * g
        return _typed(w, w - v, v)

    def change(self, k: Writer, rate: Expr, g: Expr, *history: Expr) -> tuple[Expr, ...]:
        v = k.let(history[0] * self.momentum + rate * g)
        return v, v

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield from cls.sampled(cls(0.9))
        yield from cls.sampled(cls(0.0, 2.0))


@operator
class NesterovUpdate(Update):
    """Nesterov's momentum: new = momentum v + rate g; w - ((1 + momentum) new - momentum v)."""

    momentum: float = 0.0
    factor: float = 1.0

    def reference(
        self, w: np.ndarray, g: np.ndarray, v: np.ndarray, rate: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        new = self.momentum * v + rate * self.factor * g
        return _typed(w, w - (1 + self.momentum) * new + self.momentum * v, new)

    def change(self, k: Writer, rate: Expr, g: Expr, *history: Expr) -> tuple[Expr, ...]:
        new = k.let(history[0] * self.momentum + rate * g)
        return new * (1.0 + self.momentum) - history[0] * self.momentum, new

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield from cls.sampled(cls(0.9, 0.5))


@operator
class AdaGradUpdate(Update):
    """h + g^2 adds up; w - rate g / (sqrt(h) + delta). Duchi, Hazan and Singer, JMLR 12 (2011)."""

    delta: float = 1e-8
    factor: float = 1.0

    def reference(
        self, w: np.ndarray, g: np.ndarray, h: np.ndarray, rate: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        h = h + g * g
        return _typed(w, w - rate * self.factor * g / (np.sqrt(h) + self.delta), h)

    def change(self, k: Writer, rate: Expr, g: Expr, *history: Expr) -> tuple[Expr, ...]:
        h = k.let(history[0] + g * g)
        return rate * g / (k.sqrt(h) + self.delta), h

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield from cls.sampled(cls(1e-8))
        yield from cls.sampled(cls(0.1, 3.0))


@operator
class RmsPropUpdate(Update):
    """h = decay h + (1 - decay) g^2; w - rate g / (sqrt(h) + delta). Tieleman and Hinton (2012)."""

    decay: float = 0.99
    delta: float = 1e-8
    factor: float = 1.0

    def reference(
        self, w: np.ndarray, g: np.ndarray, h: np.ndarray, rate: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        h = self.decay * h + (1 - self.decay) * g * g
        return _typed(w, w - rate * self.factor * g / (np.sqrt(h) + self.delta), h)

    def change(self, k: Writer, rate: Expr, g: Expr, *history: Expr) -> tuple[Expr, ...]:
        h = k.let(history[0] * self.decay + g * g * (1.0 - self.decay))
        return rate * g / (k.sqrt(h) + self.delta), h

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield from cls.sampled(cls(0.9, 1e-6))


@operator
class AdaDeltaUpdate(Update):
    """Steps in the parameter's own unit (Zeiler, arXiv 1212.5701), times the rate.

    h = m h + (1 - m) g^2; q = g sqrt((s + delta) / (h + delta)); s = m s + (1 - m) q^2; w - rate q.
    """

    momentum: float = 0.95
    delta: float = 1e-8
    factor: float = 1.0

    histories = 2

    def reference(
        self, w: np.ndarray, g: np.ndarray, h: np.ndarray, s: np.ndarray, rate: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        m = self.momentum
        h = m * h + (1 - m) * g * g
        q = g * np.sqrt((s + self.delta) / (h + self.delta))
        return _typed(w, w - rate * self.factor * q, h, m * s + (1 - m) * q * q)

    def change(self, k: Writer, rate: Expr, g: Expr, *history: Expr) -> tuple[Expr, ...]:
        old, size = history
        m = self.momentum
        h = k.let(old * m + g * g * (1.0 - m))
        q = k.let(g * k.sqrt((size + self.delta) / (h + self.delta)))
        return rate * q, h, k.let(size * m + q * q * (1.0 - m))

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield from cls.sampled(cls(0.95, 1e-6))


@operator
class AdamUpdate(Update):
    """m and v are running means of g and g^2; w - rate m / (sqrt(v) + delta).

    Kingma and Ba, arXiv 1412.6980, in the form at the end of its section 2: the rate that comes in
    holds the correction sqrt(1 - momentum2^t) / (1 - momentum^t) of step t, and delta is added to
    the uncorrected root.
    """

    momentum: float = 0.9
    momentum2: float = 0.999
    delta: float = 1e-8
    factor: float = 1.0

    histories = 2

    def reference(
        self, w: np.ndarray, g: np.ndarray, m: np.ndarray, v: np.ndarray, rate: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        m = self.momentum * m + (1 - self.momentum) * g
        v = self.momentum2 * v + (1 - self.momentum2) * g * g
        return _typed(w, w - rate * self.factor * m / (np.sqrt(v) + self.delta), m, v)

    def change(self, k: Writer, rate: Expr, g: Expr, *history: Expr) -> tuple[Expr, ...]:
        m = k.let(history[0] * self.momentum + g * (1.0 - self.momentum))
        v = k.let(history[1] * self.momentum2 + g * g * (1.0 - self.momentum2))
        return rate * m / (k.sqrt(v) + self.delta), m, v

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield from cls.sampled(cls(0.9, 0.999))
        yield from cls.sampled(cls(0.0, 0.9, 1e-4, 2.0))


def _typed(w: np.ndarray, *results: Any) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(result, w.dtype) for result in results)


# -- before the update ----------------------------------------------------------------------------


@operator
class WeightDecay(Map):
    """g + amount * w, the gradient of amount / 2 * w^2 added; with norm 1, g + amount * sign(w)."""

    amount: float
    norm: int = 2

    def scalar(self, k: Writer, g: Expr, w: Expr) -> Expr:
        return g + (w if self.norm == 2 else k.sign(w)) * self.amount

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(0.1), normal(2, 3), normal(2, 3))
        yield Example(cls(0.1, 1), normal(2, 3), away_from_zero(2, 3))


@operator
class SumOfSquares(Op):
    """The sum of x^2 over `axes`, which go."""

    axes: tuple[int, ...]

    def infer(self, x: TensorType) -> TensorType:
        fine = len(set(self.axes)) == len(self.axes) and all(0 <= a < x.rank for a in self.axes)
        need(fine and x.is_real, f"{self.op_name}: {list(self.axes)} are no axes of reals {x}")
        return x.with_shape(*(e for axis, e in enumerate(x.shape) if axis not in self.axes))

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(np.square(x).sum(self.axes, dtype=x.dtype))

    def gradient(self, dy: Value, y: Value, x: Value) -> Value:
        spread: Value = Broadcast(x.shape, self.axes)(dy)
        return spread * x * 2.0

    def kernel(self, k: Writer, x: Array, y: Array) -> None:
        place = tuple(k.each(*y.shape))
        kept = iter(place)
        folded = [axis for axis in range(x.rank) if axis in self.axes]
        over = dict(zip(folded, k.axes(*(x.shape[a] for a in folded)), strict=True))
        element = x[tuple(over[a] if a in over else next(kept) for a in range(x.rank))]
        y[place] = k.sum(list(over.values()), element * element) if over else element * element

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls((1, 2)), normal(3, 4, 5))
        yield Example(cls((0,)), normal(7))
        yield Example(cls(()), normal())


@operator
class ClipFactor(Map):
    """What brings a vector with this sum of squares to a norm of at most `limit`: up to 1."""

    limit: float

    def scalar(self, k: Writer, squares: Expr) -> Expr:
        norm = k.sqrt(squares)
        return k.select(norm > self.limit, self.limit / norm, 1.0)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(0.1), positive())
        yield Example(cls(9.0), positive(3))


@operator
class Scaled(Op):
    """x times one number, which is known when the net runs."""

    def infer(self, x: TensorType, factor: TensorType) -> TensorType:
        need(factor == x.with_shape(), f"{self.op_name}: {factor} is not one number for {x}")
        return x

    def reference(self, x: np.ndarray, factor: np.ndarray) -> np.ndarray:
        return np.asarray(x * factor)

    def gradient(self, dy: Value, y: Value, x: Value, factor: Value) -> tuple[Value, Value]:
        axes = tuple(range(x.type.rank))
        return Scaled()(dy, factor), Sum(axes)(dy * x)

    def kernel(self, k: Writer, x: Array, factor: Array, y: Array) -> None:
        i = tuple(k.each(*x.shape))
        y[i] = x[i] * factor[()]

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(2, 3), normal())
        yield Example(cls(), normal(), normal())
