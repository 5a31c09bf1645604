"""Class labels: how operators read them, and how many of them count.

Labels are numbers of any dtype, one for each position of the scores beside them. A real label is
truncated to a whole number, as Caffe does. A label equal to `ignore_label` takes part in nothing;
any other label outside 0 .. classes - 1 is an error of the call, never a read past the row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from graphc.error import NetError, need
from graphc.ir.op import Example, Op, classes, operator
from graphc.ir.types import REAL, TensorType
from graphc.kernel.build import Array, Writer
from graphc.kernel.lang import INDEX, Expr


def need_labels(scores: TensorType, label: TensorType, axis: int) -> TensorType:
    """The type of one number per position of `scores`, the class axis taken out.

    Raises NetError where `axis` does not exist or the label's shape is another one.
    """
    need_axis(scores, axis)
    need(scores.is_real, f"the scores must be real, not {scores}")
    position = scores.dropping(axis)
    need(
        label.shape == position.shape,
        f"the label {label} must hold one class for each position of {scores} along axis {axis},"
        f" that is the shape {list(position.shape)}",
    )
    return position


def need_axis(type: TensorType, axis: int) -> None:
    """Raise NetError unless `axis` counts an axis of `type` from the front."""
    need(0 <= axis < type.rank, f"axis {axis} does not exist in {type}")


def along(position: Sequence[Expr], axis: int, index: Expr) -> tuple[Expr, ...]:
    """The index of a whole array from a position without `axis` and an index on it."""
    return (*position[:axis], index, *position[axis:])


def class_of(
    k: Writer, label: Expr, count: int, ignore_label: int | None
) -> tuple[Expr, Expr | None]:
    """The class a kernel may index with, and whether it is ignored (None: never).

    An ignored label is replaced by class 0 before the range is checked.
    """
    whole = k.let(k.cast(label, INDEX))
    if ignore_label is None:
        return k.index(whole, count, "label"), None
    ignored = k.equal(whole, ignore_label)
    return k.index(k.select(ignored, 0, whole), count, "label"), ignored


def unless(k: Writer, ignored: Expr | None, value: Expr) -> Expr:
    """`value`, and 0 where the label is ignored."""
    return value if ignored is None else k.select(ignored, 0.0, value)


def whole_of(label: np.ndarray) -> np.ndarray:
    """Labels truncated to int64; what does not fit becomes some number out of any range."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.trunc(label).astype(np.int64))


def classes_of(
    label: np.ndarray, count: int, ignore_label: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Whole labels (0 where ignored) and a mask of the positions that count.

    Raises NetError at the first label out of range.
    """
    whole = whole_of(label)
    valid = np.ones(whole.shape, bool) if ignore_label is None else whole != ignore_label
    outside = valid & ((whole < 0) | (whole >= count))
    if outside.any():
        raise NetError(f"label {whole[outside].flat[0]} is not within 0 .. {count - 1}")
    return np.where(valid, whole, 0), valid


@operator
class ValidWeight(Op):
    """1 / max(1, number of labels that are not `ignore_label`): each position's weight in a mean.

    A scalar of the given dtype. Caffe's normalisation VALID, where labels can be ignored.
    """

    ignore_label: int
    dtype: str = "float32"

    gradient_stops = True

    def infer(self, label: TensorType) -> TensorType:
        need(self.dtype in REAL, f"a weight must be real, not {self.dtype}")
        return TensorType(self.dtype, ())

    def reference(self, label: np.ndarray) -> np.ndarray:
        count = int((whole_of(label) != self.ignore_label).sum())
        return np.asarray(1 / max(1, count), self.dtype)

    def kernel(self, k: Writer, label: Array, y: Array) -> None:
        at = k.axes(*label.shape)
        ignored = k.equal(k.cast(label[*at], INDEX), self.ignore_label)
        count = k.sum(at, k.select(ignored, k.number(0, y.dtype), k.number(1, y.dtype)))
        y[()] = 1.0 / k.maximum(count, 1.0)

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls(ignore_label=1, dtype="float64"), classes(3, 4, 5))
        yield Example(cls(ignore_label=0, dtype="float64"), classes(1, 3))
