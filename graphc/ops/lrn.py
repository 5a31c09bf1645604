"""Local response normalisation across channels (section 3.3 of the AlexNet paper).

    scale = k + alpha / size * sum of squares over `size` neighbouring channels (zeros outside)
    y = x * scale ** -beta

Both steps of the gradient recompute `scale` from x: that costs less than a load from memory.
Normalisation within a channel needs no operator of its own: it is average pooling of x * x.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graphc.error import need
from graphc.ir.graph import Value
from graphc.ir.op import Example, Op, normal, operator
from graphc.ir.types import TensorType
from graphc.kernel.build import Array, Writer
from graphc.kernel.lang import Expr, Var


def _need_channels(name: str, x: TensorType, size: int) -> None:
    need(x.rank >= 2 and x.is_real, f"{name}: {x} has no channels (axis 1)")
    need(size >= 1 and size % 2 == 1, f"{name}: the size {size} must be odd")


def _window_sum(values: np.ndarray, size: int) -> np.ndarray:
    """Sum over `size` neighbours along axis 1, with zeros outside."""
    half = size // 2
    widths = [(0, 0)] * values.ndim
    widths[1] = (half, half)
    taps = np.lib.stride_tricks.sliding_window_view(np.pad(values, widths), size, axis=1)
    return np.asarray(taps.sum(-1))


def _neighbours(k: Writer, c: Expr, channels: int, size: int) -> tuple[Var, Expr, Expr | None]:
    """A fold variable over a channel's window, the neighbour it means, and the guard for it."""
    offset = k.axis(size)
    neighbour = c + offset - size // 2
    return offset, neighbour, k.within(neighbour, channels) if size > 1 else None


def _scale(k: Writer, x: Array, at: list[Var], size: int, alpha: float, shift: float) -> Expr:
    """The formula's scale at position `at`."""
    n, c, *rest = at
    offset, neighbour, inside = _neighbours(k, c, x.shape[1], size)
    value = x[(n, neighbour, *rest)]
    return k.sum(offset, value * value, inside) * (alpha / size) + shift


@operator
class Lrn(Op):
    """x * (k + alpha / size * windowed sum of squares) ** -beta over `size` channels, size odd."""

    size: int = 5
    alpha: float = 1.0
    beta: float = 0.75
    k: float = 1.0

    def infer(self, x: TensorType) -> TensorType:
        _need_channels(self.op_name, x, self.size)
        return x

    def reference(self, x: np.ndarray) -> np.ndarray:
        scale = self.k + self.alpha / self.size * _window_sum(x * x, self.size)
        return np.asarray(x / scale**self.beta, x.dtype)

    def gradient(self, dy: Value, y: Value, x: Value) -> Value:
        fields = self.size, self.alpha, self.beta, self.k
        gradient: Value = LrnGradient(*fields)(x, LrnQuotient(*fields)(dy, x))
        return gradient

    def kernel(self, k: Writer, x: Array, y: Array) -> None:
        at = k.each(*x.shape)
        scale = _scale(k, x, at, self.size, self.alpha, self.k)
        y[tuple(at)] = x[tuple(at)] * k.power(scale, -self.beta)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(2, 7, 3, 2))
        yield Example(cls(3, 2.0, 0.5, 2.0), normal(2, 5, 4))
        yield Example(cls(5, 0.0001, 0.75), normal(1, 2, 2, 2))
        yield Example(cls(1), normal(2, 3))


@operator
class LrnQuotient(Op):
    """dy / scale ** (beta + 1): all that the gradient needs to know of dy."""

    size: int
    alpha: float
    beta: float
    k: float

    def infer(self, dy: TensorType, x: TensorType) -> TensorType:
        _need_channels(self.op_name, x, self.size)
        need(dy == x, f"{self.op_name}: {dy} and {x} must be one type")
        return x

    def reference(self, dy: np.ndarray, x: np.ndarray) -> np.ndarray:
        scale = self.k + self.alpha / self.size * _window_sum(x * x, self.size)
        return np.asarray(dy / scale ** (self.beta + 1), x.dtype)

    def kernel(self, k: Writer, dy: Array, x: Array, quotient: Array) -> None:
        at = k.each(*x.shape)
        i = tuple(at)
        scale = _scale(k, x, at, self.size, self.alpha, self.k)
        quotient[i] = dy[i] * k.power(scale, -self.beta - 1.0)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(5, 1.0, 0.75, 1.0), normal(2, 7, 3, 2), normal(2, 7, 3, 2))
        yield Example(cls(3, 2.0, 0.5, 2.0), normal(2, 5, 4), normal(2, 5, 4))


@operator
class LrnGradient(Op):
    """dx = q * scale - 2 alpha beta / size * x * windowed sum of q * x, q being LrnQuotient.

    The first term is dy * scale ** -beta. So this step reads two images, and raises to no power.
    """

    size: int
    alpha: float
    beta: float
    k: float

    def infer(self, x: TensorType, quotient: TensorType) -> TensorType:
        _need_channels(self.op_name, x, self.size)
        need(quotient == x, f"{self.op_name}: {x} and {quotient} must be one type")
        return x

    def reference(self, x: np.ndarray, quotient: np.ndarray) -> np.ndarray:
        scale = self.k + self.alpha / self.size * _window_sum(x * x, self.size)
        factor = 2 * self.alpha * self.beta / self.size
        received = factor * x * _window_sum(quotient * x, self.size)
        return np.asarray(quotient * scale - received, x.dtype)

    def kernel(self, k: Writer, x: Array, quotient: Array, dx: Array) -> None:
        n, c, *rest = k.each(*x.shape)
        offset, neighbour, inside = _neighbours(k, c, x.shape[1], self.size)
        i, there = (n, c, *rest), (n, neighbour, *rest)
        squares = k.sum(offset, x[there] * x[there], inside)
        handed = k.sum(offset, quotient[there] * x[there], inside)
        scale = squares * (self.alpha / self.size) + self.k
        dx[i] = quotient[i] * scale - x[i] * handed * (2 * self.alpha * self.beta / self.size)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        shape = (2, 7, 3, 2)
        yield Example(cls(5, 1.0, 0.75, 1.0), normal(*shape), normal(*shape))
        yield Example(cls(1, 1.0, 0.75, 1.0), normal(2, 3), normal(2, 3))
