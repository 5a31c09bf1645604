"""log(1 + e^x), which Caffe calls BNLL: the smallest file of an operator."""

from __future__ import annotations

from collections.abc import Iterator

from graphc.ir.op import Example, normal, operator
from graphc.kernel.build import Writer
from graphc.kernel.lang import Expr
from graphc.ops.elementwise import Map


@operator
class Softplus(Map):
    """log(1 + e^x), without overflow."""

    def scalar(self, k: Writer, x: Expr) -> Expr:
        return k.maximum(x, 0.0) + k.log1p(k.exp(-k.abs(x)))

    def derivative(self, k: Writer, wrt: int, y: Expr, *x: Expr) -> Expr:
        return k.sigmoid(x[0])

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(), normal(2, 3, scale=4.0))
