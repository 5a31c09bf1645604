"""The p-norm along channels, for p-distances.

    s = sum over channels of |d|^p,    y = s^(1/p), or s itself without the root

The derivative is not finite everywhere; `epsilon` bounds what it divides by, as MatConvNet's
vl_nnpdist does. The value is never bounded.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graphc.error import need
from graphc.ir.graph import Value
from graphc.ir.op import Example, Op, away_from_zero, normal, operator
from graphc.ir.types import TensorType
from graphc.kernel.build import Array, Writer
from graphc.kernel.lang import Expr, Var


def _need_vectors(d: TensorType, p: float) -> TensorType:
    need(d.rank >= 2 and d.is_real, f"a p-norm along channels needs channels (axis 1), not {d}")
    need(p > 0, f"a p-norm needs a p above 0, not {p:g}")
    return d.dropping(1)


def _power(k: Writer, magnitude: Expr, p: float) -> Expr:
    if p == 1:
        return magnitude
    return magnitude * magnitude if p == 2 else k.power(magnitude, p)


def _rooted(k: Writer, total: Expr, p: float) -> Expr:
    if p == 1:
        return total
    return k.sqrt(total) if p == 2 else k.power(total, 1 / p)


def _slope(k: Writer, d: Expr, p: float, epsilon: float) -> Expr:
    """d|d|^p / dd divided by p."""
    if p == 1:
        return k.sign(d)
    if p == 2:
        return d
    base = k.abs(d) if p > 1 else k.maximum(k.abs(d), epsilon)
    return k.sign(d) * k.power(base, p - 1)


@operator
class LpNorm(Op):
    """(sum over axis 1 of |d|^p)^(1/p), at each position of the other axes; no root unless `root`.

    Where the gradient divides by s^((p-1)/p), s is at least `epsilon`; where p < 1, so is |d| where
    it divides by |d|^(1-p). At d = 0 the sign, and with it the gradient, is 0.
    """

    p: float = 2.0
    root: bool = True
    epsilon: float = 1e-6

    def infer(self, d: TensorType) -> TensorType:
        return _need_vectors(d, self.p)

    def reference(self, d: np.ndarray) -> np.ndarray:
        total = (np.abs(d) ** self.p).sum(1)
        return np.asarray(total ** (1 / self.p) if self.root else total, d.dtype)

    def gradient(self, dy: Value, y: Value, d: Value) -> Value:
        dd: Value = LpNormGradient(self.p, self.root, self.epsilon)(d, dy)
        return dd

    def kernel(self, k: Writer, d: Array, y: Array) -> None:
        n, *rest = k.each(*y.shape)
        c = k.axis(d.shape[1])
        total = k.sum(c, _power(k, k.abs(d[(n, c, *rest)]), self.p))
        y[(n, *rest)] = _rooted(k, total, self.p) if self.root else total

    @classmethod
    def examples(cls) -> Iterator[Example]:
        for p in (1.0, 2.0, 4.0, 3.5):
            yield Example(cls(p), away_from_zero(2, 5, 3, 2))
            yield Example(cls(p, root=False), away_from_zero(2, 5, 3))
        yield Example(cls(0.5), away_from_zero(2, 3))


@operator
class LpNormGradient(Op):
    """dd = dy |d|^(p-1) sign(d) s^((1-p)/p), or p |d|^(p-1) sign(d) dy without the root."""

    p: float
    root: bool
    epsilon: float

    def infer(self, d: TensorType, dy: TensorType) -> TensorType:
        need(dy == _need_vectors(d, self.p), f"a gradient {dy} does not fit the norms of {d}")
        return d

    def reference(self, d: np.ndarray, dy: np.ndarray) -> np.ndarray:
        p, size = self.p, np.abs(d)
        base = np.maximum(size, self.epsilon) if p < 1 else size
        factor: np.ndarray | float = p
        if self.root:
            total = (size**p).sum(1, keepdims=True)
            factor = np.maximum(total, self.epsilon) ** ((1 - p) / p)
        slope = np.where(d == 0, 0, np.sign(d) * np.where(d == 0, 1, base) ** (p - 1))
        return np.asarray(slope * factor * np.expand_dims(dy, 1), d.dtype)

    def kernel(self, k: Writer, d: Array, dy: Array, dd: Array) -> None:
        n, *rest = k.each(*dy.shape)
        c = k.axis(d.shape[1])
        scale = dy[(n, *rest)] * self._factor(k, d, n, c, rest)
        here = (n, c, *rest)
        dd[here] = k.let(scale) * _slope(k, d[here], self.p, self.epsilon)

    def _factor(self, k: Writer, d: Array, n: Var, c: Var, rest: list[Var]) -> Expr:
        if not self.root or self.p == 1:
            return k.number(1.0 if self.root else self.p, d.dtype)
        total = k.sum(c, _power(k, k.abs(d[(n, c, *rest)]), self.p))
        bounded = k.maximum(total, self.epsilon)
        if self.p == 2:
            return 1.0 / k.sqrt(bounded)
        return k.power(bounded, (1 - self.p) / self.p)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        for p in (1.0, 2.0, 3.5, 0.5):
            yield Example(cls(p, True, 1e-6), away_from_zero(2, 5, 3), normal(2, 3))
            yield Example(cls(p, False, 1e-6), away_from_zero(2, 5, 3, 2), normal(2, 3, 2))
