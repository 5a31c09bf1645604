"""Batch normalisation in parts: the moments of each channel, and what is done with them.

    mu[c] = mean of x over all axes but 1,    sigma[c] = sqrt(mean of (x - mu)^2 + epsilon)
    y = g * (x - mu) / sigma + b

The whole gradient of the block (Ioffe, Szegedy, "Batch normalization", ICML 2015) is the sum of the
parts' gradients: through the numerator, through mu and through sigma.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from graphc.error import need
from graphc.ir.core.fill import Fill
from graphc.ir.graph import Value
from graphc.ir.op import Example, Op, Sample, away_from_zero, normal, operator, positive
from graphc.ir.types import TensorType
from graphc.kernel.build import Array, Writer
from graphc.kernel.lang import Expr, Var
from graphc.ops.elementwise import Map
from graphc.ops.linear import Scale


def _need_channels(name: str, x: TensorType, *vectors: TensorType) -> TensorType:
    """The type of one number per channel. Raises NetError where `vectors` are of another type."""
    need(x.rank >= 2 and x.is_real, f"{name}: {x} has no channels (axis 1)")
    channel = x.with_shape(x.shape[1])
    for vector in vectors:
        need(vector == channel, f"{name}: {vector} is not one number per channel of {x}")
    return channel


def _count(x: TensorType | Array | Value | np.ndarray) -> int:
    """How many elements a channel has."""
    return prod(x.shape) // x.shape[1]


def _others(rank: int) -> tuple[int, ...]:
    return (0, *range(2, rank))


def _spread(vector: np.ndarray, x: np.ndarray) -> np.ndarray:
    return vector.reshape(-1, *([1] * (x.ndim - 2)))


def _each_channel(k: Writer, x: Array) -> tuple[Var, list[Var], tuple[Expr, ...]]:
    """A parallel loop over channels, the loops over a channel's elements, and the index."""
    (c,) = k.each(x.shape[1])
    n, *rest = k.axes(x.shape[0], *x.shape[2:])
    return c, [n, *rest], (n, c, *rest)


@operator
class BatchMoments(Op):
    """The mean mu of each channel (axis 1), and sigma = sqrt(biased variance + epsilon)."""

    epsilon: float

    def infer(self, x: TensorType) -> tuple[TensorType, TensorType]:
        channel = _need_channels(self.op_name, x)
        need(_count(x) > 0, f"{self.op_name}: {x} has no elements to take moments of")
        return channel, channel

    def reference(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        axes = _others(x.ndim)
        return x.mean(axes), np.sqrt(x.var(axes) + x.dtype.type(self.epsilon))

    def gradient(self, dy: Any, y: Any, x: Value) -> Value:
        return _through_moments(dy, x, *y)

    def kernel(self, k: Writer, x: Array, mu: Array, sigma: Array) -> None:
        c, loops, at = _each_channel(k, x)
        share = 1.0 / _count(x)
        mean = k.let(k.sum(loops, x[at]) * share)
        square = k.sum(loops, (x[at] - mean) * (x[at] - mean))
        mu[c] = mean
        sigma[c] = k.sqrt(square * share + self.epsilon)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(0.1), normal(2, 3, 4, 5))
        yield Example(cls(1e-5), normal(6, 4))


@operator
class AssumedMoments(Op):
    """The given mu and sigma, taken for the moments of x: gradients pass to x as if they were.

    MatConvNet differentiates batch normalisation with given moments so. It is not the derivative of
    the outputs, which do not depend on x.
    """

    output_count = 2

    def infer(
        self, x: TensorType, mu: TensorType, sigma: TensorType
    ) -> tuple[TensorType, TensorType]:
        _need_channels(self.op_name, x, mu, sigma)
        return mu, sigma

    def reference(
        self, x: np.ndarray, mu: np.ndarray, sigma: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        return mu.copy(), sigma.copy()

    def gradient(
        self, dy: Any, y: Any, x: Value, mu: Value, sigma: Value
    ) -> tuple[Value, None, None]:
        return _through_moments(dy, x, mu, sigma), None, None

    def kernel(
        self, k: Writer, x: Array, mu: Array, sigma: Array, mu_out: Array, sigma_out: Array
    ) -> None:
        (c,) = k.each(x.shape[1])
        mu_out[c] = mu[c]
        sigma_out[c] = sigma[c]

    @classmethod
    def examples(cls) -> Iterator[Example]:
        samples = [normal(2, 3, 4), normal(3), positive(3)]
        yield Example(cls(), *(Sample(s.type, s.draw, differentiable=False) for s in samples))


def _through_moments(dy: Any, x: Value, mu: Value, sigma: Value) -> Value:
    """dx from the gradients of both moments; None stands for no gradient."""
    nothing = x.graph.apply(Fill(mu.type.dtype, mu.shape, 0.0))[0]
    dmu, dsigma = (nothing if part is None else part for part in dy)
    dx: Value = BatchMomentsGradient()(x, mu, sigma, dmu, dsigma)
    return dx


@operator
class BatchMomentsGradient(Op):
    """dx = (dmu + dsigma (x - mu) / sigma) / elements of a channel."""

    def infer(self, x: TensorType, *vectors: TensorType) -> TensorType:
        _need_channels(self.op_name, x, *vectors)
        return x

    def reference(self, x: np.ndarray, *vectors: np.ndarray) -> np.ndarray:
        mu, sigma, dmu, dsigma = (_spread(vector, x) for vector in vectors)
        return np.asarray((dmu + dsigma * (x - mu) / sigma) / _count(x), x.dtype)

    def kernel(
        self, k: Writer, x: Array, mu: Array, sigma: Array, dmu: Array, dsigma: Array, dx: Array
    ) -> None:
        n, c, *rest = k.each(*x.shape)
        at = (n, c, *rest)
        dx[at] = (dmu[c] + dsigma[c] * (x[at] - mu[c]) / sigma[c]) * (1.0 / _count(x))

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(2, 3, 4), normal(3), positive(3), normal(3), normal(3))


@operator
class ChannelNormalize(Op):
    """g (x - mu) / sigma + b, with one g, b, mu and sigma per channel (axis 1)."""

    def infer(self, x: TensorType, *vectors: TensorType) -> TensorType:
        _need_channels(self.op_name, x, *vectors)
        return x

    def reference(self, x: np.ndarray, *vectors: np.ndarray) -> np.ndarray:
        g, b, mu, sigma = (_spread(vector, x) for vector in vectors)
        return np.asarray((x - mu) * (g / sigma) + b)

    def gradient(
        self, dy: Value, y: Value, x: Value, g: Value, b: Value, mu: Value, sigma: Value
    ) -> tuple[Value, ...]:
        slope: Value = Quotient()(g, sigma)
        dg, db = ChannelNormalizeGradient()(x, mu, sigma, dy)
        return Scale(1)(dy, slope), dg, db, -(slope * db), -(slope * dg)

    def kernel(
        self, k: Writer, x: Array, g: Array, b: Array, mu: Array, sigma: Array, y: Array
    ) -> None:
        n, c, *rest = k.each(*x.shape)
        at = (n, c, *rest)
        y[at] = (x[at] - mu[c]) * (g[c] / sigma[c]) + b[c]

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(2, 3, 4, 5), normal(3), normal(3), normal(3), positive(3))
        yield Example(cls(), normal(5, 2), normal(2), normal(2), normal(2), positive(2))


@operator
class ChannelNormalizeGradient(Op):
    """Gradients of g, the sum of dy (x - mu) / sigma of a channel, and of b, the sum of dy."""

    output_count = 2

    def infer(self, x: TensorType, *others: TensorType) -> tuple[TensorType, TensorType]:
        *vectors, dy = others
        channel = _need_channels(self.op_name, x, *vectors)
        need(dy == x, f"{self.op_name}: a gradient {dy} does not fit {x}")
        return channel, channel

    def reference(
        self, x: np.ndarray, mu: np.ndarray, sigma: np.ndarray, dy: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        axes = _others(x.ndim)
        dg = (dy * (x - _spread(mu, x))).sum(axes) / sigma
        return np.asarray(dg, x.dtype), np.asarray(dy.sum(axes), x.dtype)

    def kernel(
        self, k: Writer, x: Array, mu: Array, sigma: Array, dy: Array, dg: Array, db: Array
    ) -> None:
        c, loops, at = _each_channel(k, x)
        dg[c] = k.sum(loops, dy[at] * (x[at] - mu[c])) / sigma[c]
        db[c] = k.sum(loops, dy[at])

    @classmethod
    def examples(cls) -> Iterator[Example]:
        shape = (2, 3, 4, 5)
        yield Example(cls(), normal(*shape), normal(3), positive(3), normal(*shape))


@operator
class Quotient(Map):
    """a / b."""

    def scalar(self, k: Writer, a: Expr, b: Expr) -> Expr:
        return a / b

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(5), away_from_zero(5))
