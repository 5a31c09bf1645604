"""Caffe's loss layers, softmax, accuracy and dropout.

A loss operator gives one number per position. What Caffe does with them stands here in plain
operators: the sum, and the division by the normaliser. A loss on scores enters as one operator with
its softmax, unless the caller asked for the plain form; a softmax that the user wrote before a loss
on probabilities is left as it is, for the fuse pass to find.
"""

from __future__ import annotations

import math
from typing import Any

from graphc.frontends.caffe.caffemodel import read_blob
from graphc.frontends.caffe.layer import LayerContext, layer
from graphc.frontends.caffe.shapes import axis_of, viewed
from graphc.ir.core.axes import Sum
from graphc.ir.core.elementwise import Multiply, Times
from graphc.ir.graph import Value
from graphc.ops.accuracy import ClassAccuracy, Correct
from graphc.ops.binary import HingeLoss, SigmoidLogLoss
from graphc.ops.distance import ContrastiveLoss, SquaredDistance
from graphc.ops.dropout import Dropout, DropoutMasked
from graphc.ops.infogain import InfogainLoss, SoftmaxInfogainLoss
from graphc.ops.label import ValidWeight
from graphc.ops.loss import PROBABILITY_FLOOR, SCORE_FLOOR, MultinomialLogLoss, SoftmaxLogLoss
from graphc.ops.softmax import Softmax

# -- labels and normalisers ------------------------------------------------------------------------


def _same_batch(c: LayerContext, x: Value, other: Value) -> None:
    if not x.shape or not other.shape or x.shape[0] != other.shape[0]:
        raise c.fail(
            f"'{c.layer.bottoms[0]}' of shape {list(x.shape)} and '{c.layer.bottoms[1]}' of shape"
            f" {list(other.shape)} must have the same first extent"
        )


def _labels(c: LayerContext, x: Value, label: Value, axis: int) -> Value:
    """The label blob, seen as one label per position of `x` without `axis`.

    Raises NetError where the counts differ.
    """
    position = x.type.dropping(axis).shape
    if label.type.size != math.prod(position):
        raise c.fail(
            f"'{c.layer.bottoms[1]}' of shape {list(label.shape)} holds {label.type.size} labels,"
            f" but '{c.layer.bottoms[0]}' of shape {list(x.shape)} has {math.prod(position)}"
            f" positions beside axis {axis}"
        )
    return viewed(label, position)


def _ignore_label(options: Any) -> int | None:
    return int(options.get("ignore_label")) if options.has("ignore_label") else None


def _mode(c: LayerContext, default: str) -> str:
    """FULL, VALID, BATCH_SIZE or NONE; `normalization` wins over the older `normalize`."""
    options = c.options("loss_param")
    if options.has("normalization"):
        return str(options.get("normalization"))
    if options.has("normalize"):
        return "VALID" if options.get("normalize") else "BATCH_SIZE"
    return default


def _total(loss: Value) -> Value:
    """The sum over all positions, a scalar."""
    return Sum(tuple(range(len(loss.shape))))(loss) if loss.shape else loss


def _scaled(total: Value, divisor: float) -> Value:
    return total if divisor == 1 else Times(1 / divisor)(total)


def _normalised(
    c: LayerContext, loss: Value, mode: str, batch: int, label: Value, ignore_label: int | None
) -> Value:
    """The losses of all positions added up and divided as Caffe does; never by less than 1.

    With ignored labels, the count of the others is known only when the net runs.
    """
    total = _total(loss)
    if mode == "VALID" and ignore_label is not None:
        weight = ValidWeight(ignore_label, loss.type.dtype)(label)
        mean: Value = Multiply()(total, weight)
        return mean
    divisors = {"FULL": loss.type.size, "VALID": loss.type.size, "BATCH_SIZE": batch, "NONE": 1}
    return _scaled(total, max(1, divisors[mode]))


# -- classification --------------------------------------------------------------------------------


@layer("Softmax", bottoms=1)
def softmax(c: LayerContext) -> Value:
    """Probabilities along an axis."""
    (x,) = c.bottoms
    y: Value = Softmax(axis_of(c, c.options("softmax_param"), x))(x)
    return y


@layer("SoftmaxWithLoss", bottoms=2)
def softmax_with_loss(c: LayerContext) -> Value:
    """The log loss on scores. Its probabilities are no top: Caffe 1.0 cannot set that up either."""
    if len(c.layer.tops) > 1:
        raise c.fail("SoftmaxWithLoss has one top; use a Softmax layer for the probabilities")
    x, label = c.bottoms
    axis = axis_of(c, c.options("softmax_param"), x)
    _same_batch(c, x, label)
    label = _labels(c, x, label, axis)
    ignore_label = _ignore_label(c.options("loss_param"))
    if c.fused:
        loss = SoftmaxLogLoss(axis, SCORE_FLOOR, ignore_label)(x, label)
    else:
        loss = MultinomialLogLoss(axis, SCORE_FLOOR, ignore_label)(Softmax(axis)(x), label)
    batch = math.prod(x.shape[:axis])
    return _normalised(c, loss, _mode(c, "VALID"), batch, label, ignore_label)


@layer("MultinomialLogisticLoss", bottoms=2)
def multinomial_logistic_loss(c: LayerContext) -> Value:
    """The log loss on probabilities: everything behind axis 0 counts as classes."""
    p, label = c.bottoms
    _same_batch(c, p, label)
    if len(p.shape) < 2 or math.prod(p.shape[2:]) != 1:
        p = viewed(p, (p.shape[0], p.type.size // max(1, p.shape[0])))
    label = _labels(c, p, label, 1)
    loss = MultinomialLogLoss(1, PROBABILITY_FLOOR)(p, label)
    return _scaled(_total(loss), max(1, p.shape[0]))


@layer("InfogainLoss", bottoms=(2, 3))
def infogain_loss(c: LayerContext) -> Value | tuple[Value, Value]:
    """The infogain loss on scores, or on probabilities where the caller says so.

    A second top holds the probabilities.
    """
    x, label = c.bottoms[:2]
    options = c.options("infogain_loss_param")
    axis = axis_of(c, options, x)
    if c.options("loss_param").has("normalize"):
        raise c.fail("InfogainLoss has no 'normalize'; use 'normalization'", "normalize")
    _same_batch(c, x, label)
    label = _labels(c, x, label, axis)
    matrix = _infogain_matrix(c, x.shape[axis])
    ignore_label = _ignore_label(c.options("loss_param"))
    given = c.infogain_input
    if given == "probabilities" or not c.fused:
        p = x if given == "probabilities" else Softmax(axis)(x)
        loss = InfogainLoss(axis, PROBABILITY_FLOOR, ignore_label)(p, label, matrix)
    else:
        loss = SoftmaxInfogainLoss(axis, PROBABILITY_FLOOR, ignore_label)(x, label, matrix)
        p = None
    batch = math.prod(x.shape[:axis])
    total = _normalised(c, loss, _mode(c, "VALID"), batch, label, ignore_label)
    if len(c.layer.tops) < 2:
        return total
    return total, Softmax(axis)(x) if p is None else p


def _infogain_matrix(c: LayerContext, count: int) -> Value:
    """The matrix from bottom 2 or from the file, as [count, count]."""
    if len(c.bottoms) == 3:
        matrix = c.bottoms[2]
        size = matrix.type.size
    else:
        source = c.options("infogain_loss_param").get("source")
        if not source:
            raise c.fail("an infogain matrix is needed: a third bottom, or a source file")
        array = read_blob(c.path(source))
        size = array.size
    if size != count * count:
        raise c.fail(
            f"the infogain matrix has {size} elements; {count} classes need"
            f" {count} x {count} = {count * count}"
        )
    if len(c.bottoms) == 3:
        return viewed(matrix, (count, count))
    return c.constant("infogain", array.reshape(count, count))


@layer("Accuracy", bottoms=2)
def accuracy(c: LayerContext) -> Value | tuple[Value, Value]:
    """The share of right answers, and as second top the same for each class."""
    x, label = c.bottoms
    options = c.options("accuracy_param")
    axis = axis_of(c, options, x)
    label = _labels(c, x, label, axis)
    top_k, classes = options.get("top_k"), x.shape[axis]
    if not 1 <= top_k <= classes:
        raise c.fail(f"top_k is {top_k}, but there are {classes} classes", "accuracy_param")
    ignore_label = _ignore_label(options)
    correct = Correct(axis, top_k, ignore_label)(x, label)
    share = _normalised(c, correct, "VALID", 1, label, ignore_label)
    if len(c.layer.tops) < 2:
        return share
    return share, ClassAccuracy(classes, ignore_label)(correct, label)


@layer("HingeLoss", bottoms=2)
def hinge_loss(c: LayerContext) -> Value:
    """One against all; everything behind axis 0 counts as classes."""
    x, label = c.bottoms
    _same_batch(c, x, label)
    x = viewed(x, (x.shape[0], x.type.size // max(1, x.shape[0])))
    label = _labels(c, x, label, 1)
    squared = c.options("hinge_loss_param").get("norm") == "L2"
    return _scaled(_total(HingeLoss(1, squared)(x, label)), max(1, x.shape[0]))


# -- regression and pairs --------------------------------------------------------------------------


@layer("SigmoidCrossEntropyLoss", bottoms=2)
def sigmoid_cross_entropy_loss(c: LayerContext) -> Value:
    """The log loss of a yes-or-no question per score; by default divided by the batch."""
    x, target = c.bottoms
    _same_batch(c, x, target)
    if target.type.size != x.type.size:
        raise c.fail(
            f"there must be one target for each of the {x.type.size} scores, not {target.type.size}"
        )
    target = viewed(target, x.shape)
    ignore_label = _ignore_label(c.options("loss_param"))
    loss = SigmoidLogLoss(ignore_label)(x, target)
    return _normalised(c, loss, _mode(c, "BATCH_SIZE"), x.shape[0], target, ignore_label)


@layer("EuclideanLoss", bottoms=2)
def euclidean_loss(c: LayerContext) -> Value:
    """Squared differences, divided by twice the batch."""
    a, b = c.bottoms
    _same_batch(c, a, b)
    if a.type.size != b.type.size:
        raise c.fail(f"the bottoms have different shapes, {list(a.shape)} and {list(b.shape)}")
    distances = SquaredDistance()(a, viewed(b, a.shape))
    return _scaled(_total(distances), 2 * max(1, a.shape[0]))


@layer("ContrastiveLoss", bottoms=3)
def contrastive_loss(c: LayerContext) -> Value:
    """Pairs of vectors drawn together or pushed apart; divided by twice the batch."""
    a, b, similar = c.bottoms
    _same_batch(c, a, b)
    if a.type.size != b.type.size or math.prod(a.shape[2:]) != 1:
        raise c.fail(
            "the two blobs of vectors must have one shape, items x channels, not"
            f" {list(a.shape)} and {list(b.shape)}"
        )
    if similar.type.size != a.shape[0]:
        raise c.fail(
            f"there must be one similarity for each of the {a.shape[0]} pairs,"
            f" not {similar.type.size}"
        )
    options = c.options("contrastive_loss_param")
    operator = ContrastiveLoss(float(options.get("margin")), bool(options.get("legacy_version")))
    distances = operator(a, viewed(b, a.shape), viewed(similar, (a.shape[0],)))
    return _scaled(_total(distances), 2 * max(1, a.shape[0]))


# -- dropout ---------------------------------------------------------------------------------------


@layer("Dropout", bottoms=1)
def dropout(c: LayerContext) -> Value:
    """Drops at random in TRAIN, by its own mask or one that is given; the identity in TEST."""
    (x,) = c.bottoms
    ratio = float(c.options("dropout_param").get("dropout_ratio"))
    if not 0 <= ratio < 1:
        raise c.fail(
            f"dropout_ratio must be at least 0 and less than 1, not {ratio:g}", "dropout_param"
        )
    if c.phase == "TEST":
        c.remark("drops nothing in phase TEST: its top is its bottom")
        return x
    if c.layer.name in c.masks:
        mask = c.extra_input(f"mask/{c.layer.name}", x.type)
        y: Value = DropoutMasked(ratio)(x, mask)
    else:
        y = Dropout(ratio, c.stream())(x, c.counter())
    return y
