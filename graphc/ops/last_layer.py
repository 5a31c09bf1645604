"""A last layer and the softmax log loss behind it as one operator that never holds all scores.

Scores of many classes are the largest array of a net: 512 examples and 128k classes take 256 MB,
and their gradient as much. The loss needs them a block of classes at a time, and so do its
gradients, if the block is computed again:

    forward    scores(block) = rows w(block) + b(block);  its mass (graphc.ops.class_blocks)
    backward   scores(block) again;  their gradient g;
               dw(block) = g rows,  db(block) = sum of g,  drows = sum over blocks of g w(block)

That is four products instead of three, and memory for one block. The operators here are not
kernels: `expanded` writes them out, block after block, in products and small sweeps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphc.error import need
from graphc.ir.core.axes import Sum, Transpose
from graphc.ir.core.view import View
from graphc.ir.graph import Value
from graphc.ir.op import Example, Op, classes, normal, operator, positive
from graphc.ir.types import TensorType
from graphc.ops.class_blocks import (
    BlockLogLossGradient,
    BlockMass,
    BlockPlaces,
    MassLogLoss,
    MassSlope,
)
from graphc.ops.conv import Conv
from graphc.ops.label import whole_of
from graphc.ops.linear import AddBias, MatMul
from graphc.ops.loss import SCORE_FLOOR, SoftmaxLogLoss
from graphc.ops.shape import Concat, Slice

# A block of scores is about so large: it stays in the second cache beside the rows.
BLOCK_BYTES = 4 << 20
# Narrower blocks would read the rows too often, and more of them make a plan long.
FEWEST_CLASSES = 256
MOST_BLOCKS = 64


def block_classes(rows: int, count: int, item_bytes: int = 4) -> int:
    """How many of `count` classes make one block of scores for so many rows."""
    fitting = BLOCK_BYTES // max(1, rows * item_bytes)
    wanted = max(FEWEST_CLASSES, fitting, math.ceil(count / MOST_BLOCKS))
    return min(count, math.ceil(wanted / 64) * 64)


class _LastLayer(Op):
    """What the loss and its gradient know of the layer: x [N, K, *S], w, label, perhaps b."""

    transposed: bool
    shape: tuple[int, ...] | None
    axis: int
    block: int

    def _rows(self, x: TensorType) -> int:
        return math.prod(x.shape) // max(1, x.shape[1])

    def _count(self, w: TensorType) -> int:
        return w.shape[1] if self.transposed else w.shape[0]

    def _block(self, x: TensorType, w: TensorType) -> int:
        item = x.bytes // max(1, x.size)
        return self.block or block_classes(self._rows(x), self._count(w), item)

    def _need_layer(self, x: TensorType, w: TensorType, b: TensorType | None) -> None:
        need(x.rank >= 2 and x.is_real and x.dtype == w.dtype, f"{x} and {w} make no scores")
        inner = w.shape[0] if self.transposed else w.shape[1] if w.rank > 1 else 0
        need(
            w.rank == (2 if self.transposed else x.rank) and inner == x.shape[1],
            f"weights {w} do not fit the rows of {x}",
        )
        need(
            self.transposed or math.prod(w.shape[2:]) == 1,
            f"its kernel {list(w.shape[2:])} is more than one position",
        )
        count = self._count(w)
        need(b is None or b.shape == (count,), f"a bias {b} does not fit {count} classes")

    def _position(self, x: TensorType, w: TensorType) -> TensorType:
        """The type of one number for each position of the scores, as the loss sees them."""
        if self.shape is None:
            need(self.axis == 1, f"the classes lie along axis 1 of the scores, not {self.axis}")
            return x.dropping(1)
        seen = x.with_shape(*self.shape)
        need(
            math.prod(x.shape[2:]) == 1
            and math.prod(seen.shape[: self.axis]) == x.shape[0]
            and seen.shape[self.axis] == self._count(w),
            f"axis {self.axis} of {list(self.shape)} does not hold the classes of a row",
        )
        return seen.dropping(self.axis)

    # -- written out --

    def _matrix(self, x: Value) -> Value:
        """x as rows [positions, K]."""
        if len(x.shape) > 2:
            x = Transpose((0, *range(2, len(x.shape)), 1))(x)
        return _seen(x, (math.prod(x.shape[:-1]), x.shape[-1]))

    def _blocks(self, x: Value, w: Value, label: Value, b: Value | None) -> list[_Block]:
        count = self._count(w.type)
        size = self._block(x.type, w.type)
        points = tuple(range(size, count, size))
        rows = self._rows(x.type)
        places = BlockPlaces(size, len(points) + 1)(_seen(label, (rows,)))
        return [
            _Block(part, _seen(place, (rows,)), bias)
            for part, place, bias in zip(
                _sliced(_seen(w, w.shape[:2]), 1 if self.transposed else 0, points),
                _sliced(places, 0, tuple(range(1, len(points) + 1))),
                [None] * (len(points) + 1) if b is None else _sliced(b, 0, points),
                strict=True,
            )
        ]

    def _scores(self, rows: Value, block: _Block) -> Value:
        product: Value = MatMul(False, not self.transposed)(rows, block.w)
        scores: Value = product if block.b is None else AddBias(1)(product, block.b)
        return scores

    # -- in numpy --

    def _all_scores(self, x: np.ndarray, w: np.ndarray, b: np.ndarray | None) -> np.ndarray:
        rows = np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])
        matrix = w.T if self.transposed else w.reshape(w.shape[:2])
        scores = rows @ matrix.T
        return np.asarray(scores if b is None else scores + b)


@dataclass(frozen=True)
class _Block:
    """Weights, labels' places and bias of a block of classes."""

    w: Value
    place: Value
    b: Value | None


def _seen(value: Value, shape: tuple[int, ...]) -> Value:
    """The value in another shape; itself where it has that."""
    made: Value = value if value.shape == shape else View(shape)(value)
    return made


def _sliced(value: Value, axis: int, points: tuple[int, ...]) -> list[Value]:
    if not points:
        return [value]
    return list(Slice(axis, points)(value))


@operator
class LinearSoftmaxLogLoss(_LastLayer):
    """-log softmax(w x + b)[label] of every position; then each position's top, rest and mine.

    x [N, K, *S]; w [C, K], or [C, K, 1, ...] as a convolution has it, or [K, C] where `transposed`;
    b [C], or none. `shape`: how the loss sees the scores, if not as [N, C, *S]; `axis`: where the
    classes are there; the label has that shape without it. `block`: classes of a block, 0: chosen.
    top, rest and mine [N * S] are what SoftmaxLogLoss calls so; they are kept for the gradient.
    """

    transposed: bool = False
    shape: tuple[int, ...] | None = None
    axis: int = 1
    floor: float = SCORE_FLOOR
    ignore_label: int | None = None
    block: int = 0

    results: ClassVar[int | None] = 1
    recomputes: ClassVar[bool] = True

    def equals(self, x: Value, w: Value, label: Value, b: Any = None) -> list[Any]:
        """An inner product or a 1x1 convolution, with or without bias, and the loss on scores."""
        products: list[tuple[Value, dict[str, Any]]] = [
            (MatMul(False, True)(x, w), {"transposed": False}),
            (MatMul(False, False)(x, w), {"transposed": True}),
            (Conv((1, 1), ((0, 0), (0, 0)), (1, 1), 1)(x, w), {"transposed": False}),
        ]
        loss = SoftmaxLogLoss(self.axis, self.floor, self.ignore_label)
        seen: Any = self.shape
        forms = []
        for product, fields in products:
            for scores in (AddBias(1)(product, b), product):
                forms.append((loss(scores, label), fields | {"shape": None}))
                forms.append((loss(View(seen)(scores), label), fields))
        return forms

    def infer(
        self, x: TensorType, w: TensorType, label: TensorType, b: TensorType | None = None
    ) -> tuple[TensorType, ...]:
        self._need_layer(x, w, b)
        position = self._position(x, w)
        need(label.shape == position.shape, f"the label {label} must be like {position}")
        return (position, *(x.with_shape(self._rows(x)),) * 3)

    def scratch_bytes(self, *inputs: TensorType) -> int:
        x, w, *_ = inputs
        return x.with_shape(self._rows(x), self._block(x, w)).bytes

    def reference(
        self, x: np.ndarray, w: np.ndarray, label: np.ndarray, b: np.ndarray | None = None
    ) -> tuple[np.ndarray, ...]:
        scores = self._all_scores(x, w, b)
        flat = label.reshape(-1)
        loss = SoftmaxLogLoss(1, self.floor, self.ignore_label).reference(scores, flat)
        top = scores.max(1)
        mass = np.exp(scores - top[:, None])
        own = np.arange(scores.shape[1]) == whole_of(flat)[:, None]
        rest = np.where(own, 0, mass).sum(1, dtype=x.dtype)
        mine = np.where(own, mass, 0).sum(1, dtype=x.dtype)
        return loss.reshape(label.shape), top, rest, mine

    def gradient(
        self,
        dy: tuple[Value | None, ...],
        y: tuple[Value, ...],
        x: Value,
        w: Value,
        label: Value,
        b: Value | None = None,
    ) -> tuple[Value | None, ...]:
        if dy[0] is None:
            return (None,) * (3 if b is None else 4)
        bias = () if b is None else (b,)
        operator = LinearSoftmaxLogLossGradient(self.transposed, self.ignore_label, self.block)
        dx, dw, *db = operator(x, w, label, *y[1:], dy[0], *bias)
        return (dx, dw, None, *db)

    def expanded(
        self, x: Value, w: Value, label: Value, b: Value | None = None
    ) -> tuple[Value, ...]:
        rows = self._matrix(x)
        masses = [
            BlockMass()(self._scores(rows, block), block.place)
            for block in self._blocks(x, w, label, b)
        ]
        stacked = [Concat(0)(*parts) for parts in zip(*masses, strict=True)]
        operator = MassLogLoss(self._count(w.type), self.floor, self.ignore_label)
        loss, *kept = operator(*stacked, _seen(label, rows.shape[:1]))
        return (_seen(loss, label.shape), *kept)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        label = classes(7, 3)
        yield Example(cls(block=3), normal(3, 5), normal(7, 5), label, normal(7))
        yield Example(cls(floor=0.0, block=7), normal(3, 5, scale=9.0), normal(7, 5), label)
        yield Example(cls(True, block=4), normal(3, 5), normal(5, 7), label, normal(7))
        image = normal(2, 5, 2, 3), normal(7, 5, 1, 1), classes(7, 2, 2, 3), normal(7)
        yield Example(cls(ignore_label=2, block=2), *image)
        yield Example(
            cls(shape=(2, 3, 7), axis=2), normal(6, 5), normal(7, 5), classes(7, 2, 3), normal(7)
        )


@operator
class LinearSoftmaxLogLossGradient(_LastLayer):
    """Gradients of x, w and, where there is one, b of LinearSoftmaxLogLoss.

    top, rest, mine: its other results, [rows]; dy like its loss. The scores are computed again.
    """

    transposed: bool = False
    ignore_label: int | None = None
    block: int = 0

    gradient_stops = True

    def infer(
        self,
        x: TensorType,
        w: TensorType,
        label: TensorType,
        top: TensorType,
        rest: TensorType,
        mine: TensorType,
        dy: TensorType,
        b: TensorType | None = None,
    ) -> tuple[TensorType, ...]:
        self._need_layer(x, w, b)
        rows = x.with_shape(self._rows(x))
        need(
            top == rest == mine == rows and label.size == dy.size == rows.size,
            f"{top}, {rest}, {mine}, {label} and {dy} must hold one number for each of {rows}",
        )
        return (x, w) if b is None else (x, w, b)

    def reference(
        self,
        x: np.ndarray,
        w: np.ndarray,
        label: np.ndarray,
        top: np.ndarray,
        rest: np.ndarray,
        mine: np.ndarray,
        dy: np.ndarray,
        b: np.ndarray | None = None,
    ) -> tuple[np.ndarray, ...]:
        rows = np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])
        flat = label.reshape(-1)
        slope = MassSlope(self.ignore_label).reference(flat, rest, mine, dy.reshape(-1))
        g = BlockLogLossGradient().reference(
            self._all_scores(x, w, b), whole_of(flat), top, rest, slope
        )
        matrix = w.T if self.transposed else w.reshape(w.shape[:2])
        last = np.moveaxis(x, 1, -1).shape
        dx = np.moveaxis((g @ matrix).reshape(last), -1, 1)
        dw = rows.T @ g if self.transposed else (g.T @ rows).reshape(w.shape)
        return (dx, dw) if b is None else (dx, dw, g.sum(0, dtype=x.dtype))

    def expanded(
        self,
        x: Value,
        w: Value,
        label: Value,
        top: Value,
        rest: Value,
        mine: Value,
        dy: Value,
        b: Value | None = None,
    ) -> tuple[Value, ...]:
        rows = self._matrix(x)
        flat, slope = (_seen(value, top.shape) for value in (label, dy))
        slope = MassSlope(self.ignore_label)(flat, rest, mine, slope)
        drows: Value | None = None
        dws, dbs = [], []
        for block in self._blocks(x, w, label, b):
            scores = self._scores(rows, block)
            g = BlockLogLossGradient()(scores, block.place, top, rest, slope)
            dws.append(MatMul(True, False)(*((rows, g) if self.transposed else (g, rows))))
            dbs.append(Sum((0,))(g))
            share = MatMul(False, self.transposed)(g, block.w)
            drows = share if drows is None else drows + share
        assert drows is not None
        dw = _seen(Concat(1 if self.transposed else 0)(*dws), w.shape)
        made = (self._image(drows, x), dw)
        return made if b is None else (*made, Concat(0)(*dbs))

    def _image(self, rows: Value, x: Value) -> Value:
        """Rows in the shape of x: the way back from `_matrix`."""
        if len(x.shape) == 2:
            return rows
        rank = len(x.shape)
        last = _seen(rows, (x.shape[0], *x.shape[2:], x.shape[1]))
        image: Value = Transpose((0, rank - 1, *range(1, rank - 1)))(last)
        return image

    @classmethod
    def examples(cls) -> Iterator[Example]:
        rows = classes(7, 3), normal(3), positive(3), positive(3), normal(3)
        yield Example(cls(block=3), normal(3, 5), normal(7, 5), *rows, normal(7))
        yield Example(cls(True, block=4), normal(3, 5), normal(5, 7), *rows)
        pixels = classes(7, 2, 2, 3), normal(12), positive(12), positive(12), normal(2, 2, 3)
        image = normal(2, 5, 2, 3), normal(7, 5, 1, 1), *pixels, normal(7)
        yield Example(cls(ignore_label=2, block=2), *image)
