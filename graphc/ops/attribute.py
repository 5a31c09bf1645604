"""Losses of binary attributes: each score x has a label c of +1 or -1; 0 means ignored.

The formulas are those of MatConvNet's vl_nnloss. An ignored element gives 0, and a derivative of 0,
whatever its score.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from graphc.ir.graph import Value
from graphc.ir.op import Example, Sample, normal, operator, positive
from graphc.kernel.build import Writer
from graphc.kernel.lang import Expr
from graphc.ops.elementwise import Map
from graphc.ops.neuron import Sigmoid


def _known(k: Writer, c: Expr, value: Expr) -> Expr:
    """`value`, and 0 where the label is 0."""
    return k.select(k.equal(c, 0.0), k.number(0, c.dtype), value)


def _signs(*shape: int) -> Sample:
    """Labels of -1, 0 and 1."""
    drawn = normal(*shape)
    return dataclasses.replace(
        drawn, draw=lambda rng: rng.integers(-1, 2, shape).astype(np.float64), differentiable=False
    )


@operator
class BinaryError(Map):
    """1 where the sign of x - threshold is not c, else 0."""

    threshold: float = 0.0

    gradient_stops = True

    def scalar(self, k: Writer, x: Expr, c: Expr) -> Expr:
        right = k.equal(k.sign(x - self.threshold), c)
        return _known(k, c, k.select(right, k.number(0, x.dtype), 1.0))

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(0.1), normal(4, 5), _signs(4, 5))


@operator
class BinaryLogLoss(Map):
    """-log(c (x - 1/2) + 1/2): the log loss of x, the probability of +1."""

    def scalar(self, k: Writer, x: Expr, c: Expr) -> Expr:
        return _known(k, c, -k.log(c * (x - 0.5) + 0.5))

    def derivative(self, k: Writer, wrt: int, y: Expr, *x: Expr) -> Expr:
        score, c = x
        if wrt == 1:
            return _known(k, c, (0.5 - score) / (c * (score - 0.5) + 0.5))
        return _known(k, c, -1.0 / (score + (c - 1.0) * 0.5))

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), positive(4, 5, low=0.1, high=0.9), _signs(4, 5))


@operator
class LogisticLoss(Map):
    """log(1 + exp(-c x)), which no score overflows: the log loss of sigmoid(x)."""

    def equals(self, x: Value, c: Value) -> Value:
        loss: Value = BinaryLogLoss()(Sigmoid()(x), c)
        return loss

    def scalar(self, k: Writer, x: Expr, c: Expr) -> Expr:
        against = -(c * x)
        return _known(k, c, k.maximum(against, 0.0) + k.log1p(k.exp(-k.abs(against))))

    def derivative(self, k: Writer, wrt: int, y: Expr, *x: Expr) -> Expr:
        score, c = x
        return _known(k, c, -x[1 - wrt] * k.sigmoid(-(c * score)))

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(4, 5, scale=4.0), _signs(4, 5))


@operator
class AttributeHinge(Map):
    """max(0, 1 - c x); the derivative at the kink is 0."""

    def scalar(self, k: Writer, x: Expr, c: Expr) -> Expr:
        return _known(k, c, k.maximum(1.0 - c * x, 0.0))

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(4, 5), _signs(4, 5))
