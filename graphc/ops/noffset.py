"""Powers of what must not come near zero, for normalisers such as MatConvNet's vl_nnnoffset."""

from __future__ import annotations

from collections.abc import Iterator

from graphc.ir.op import Example, operator, positive
from graphc.kernel.build import Writer
from graphc.kernel.lang import Expr
from graphc.ops.elementwise import Map
from graphc.ops.neuron import raised


@operator
class FlooredPower(Map):
    """max(x, floor) ** power. The derivative, power * max(x, floor) ** (power - 1), goes on below.

    Below the floor it is the derivative at the floor, not 0.
    """

    power: float
    floor: float

    def scalar(self, k: Writer, x: Expr) -> Expr:
        return raised(k, k.maximum(x, self.floor), self.power)

    def derivative(self, k: Writer, wrt: int, y: Expr, *x: Expr) -> Expr:
        if self.power == 0:
            return k.number(0.0, y.dtype)
        if self.power == 1:
            return k.number(1.0, y.dtype)
        return raised(k, k.maximum(x[0], self.floor), self.power - 1) * self.power

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(0.5, 0.1), positive(2, 3))
        yield Example(cls(-0.75, 0.1), positive(4))
        yield Example(cls(1.0, 0.1), positive(4))
