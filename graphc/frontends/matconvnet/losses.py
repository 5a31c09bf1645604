"""The losses of vl_nnloss and vl_nnsoftmaxloss as graphs.

Scores x are [N, C, W, H]. Categorical labels and their weights are [N, W, H], those of attributes
[N, C, W, H]. Labels are the classes from 1 on, or -1 and +1 for attributes; 0 means ignored. The
result is the sum over everything that counts, one number.
"""

# ruff: noqa: N803 (options have MATLAB's names)

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphc.error import NetError, did_you_mean, need
from graphc.frontends.matconvnet.array import real, whole
from graphc.frontends.matconvnet.functions import shown, total
from graphc.ir.core.axes import Broadcast
from graphc.ir.core.view import View
from graphc.ir.graph import Value
from graphc.ir.op import Op
from graphc.ops.attribute import AttributeHinge, BinaryError, BinaryLogLoss, LogisticLoss
from graphc.ops.loss import SoftmaxLogLoss
from graphc.ops.score import Hinge, NegativeLog, Pick, StructuredHinge, TopError
from graphc.ops.soft_target import (
    SmoothedTargets,
    SoftmaxSmoothedLoss,
    SoftmaxSoftTargetLoss,
    SoftTargetLogLoss,
)

IGNORED = -1  # label 0, once the classes count from 0
LOG_FLOOR = 1e-8  # what the derivative of the log loss divides by is at least this

CATEGORICAL: dict[str, Callable[[Value, Value, int], Value]] = {
    "classerror": lambda x, c, k: TopError(1, 1, IGNORED)(x, c),
    "topkerror": lambda x, c, k: TopError(1, k, IGNORED)(x, c),
    "log": lambda x, c, k: NegativeLog(LOG_FLOOR)(Pick(1, IGNORED, 1.0)(x, c)),
    "softmaxlog": lambda x, c, k: SoftmaxLogLoss(1, 0.0, IGNORED)(x, c),
    "mhinge": lambda x, c, k: Hinge()(Pick(1, IGNORED, 1.0)(x, c)),
    "mshinge": lambda x, c, k: StructuredHinge(1, IGNORED)(x, c),
}

ATTRIBUTES: dict[str, Callable[[Value, Value, float], Value]] = {
    "binaryerror": lambda x, c, threshold: BinaryError(threshold)(x, c),
    "binarylog": lambda x, c, threshold: BinaryLogLoss()(x, c),
    "logistic": lambda x, c, threshold: LogisticLoss()(x, c),
    "hinge": lambda x, c, threshold: AttributeHinge()(x, c),
}

# Losses whose value is a count of errors: their derivative is 0.
ERRORS = ("classerror", "topkerror", "binaryerror")


def loss(
    x: Value,
    c: Value,
    weights: Value | None = None,
    *,
    loss: str = "softmaxlog",
    topK: int = 5,
    threshold: float = 0.0,
    normalise: bool = False,
    label_smoothing: float = 0.0,
) -> Value:
    """The sum of a loss over positions and images, each times its weight if there are weights.

    normalise divides by the number of images, as MatConvNet's last commit does by default.
    label_smoothing is ours: for the losses log and softmaxlog, the part of a label's weight that
    goes to all classes alike.
    """
    kind = loss_kind(loss)
    if label_smoothing:
        terms = _smoothed(x, c + -1.0, kind, label_smoothing)
    elif kind in CATEGORICAL:
        terms = CATEGORICAL[kind](x, c + -1.0, whole(topK, "topK"))
    else:
        terms = ATTRIBUTES[kind](x, c, real(threshold, "threshold"))
    if weights is not None:
        terms = terms * weights
    value = total(terms)
    return value * (1.0 / x.shape[0]) if normalise and x.shape[0] > 1 else value


def _smoothed(x: Value, c: Value, kind: str, smoothing: float) -> Value:
    need(
        kind in ("log", "softmaxlog") and 0 <= smoothing <= 1,
        f"label_smoothing is from 0 to 1, for the losses log and softmaxlog; {smoothing:g} for"
        f" {kind} is not",
    )
    fields = (1, x.shape[1], float(smoothing), IGNORED, x.type.dtype)
    if kind == "softmaxlog":
        scores: Value = SoftmaxSmoothedLoss(*fields)(x, c)
        return scores
    return soft_target(x, SmoothedTargets(*fields)(c), "log")


def soft_target(x: Value, target: Value, loss: str) -> Value:
    """-sum of t log p over the classes, at each position; `loss`: what x is, as for labels.

    Raises NetError where the loss is none of log and softmaxlog, or the shapes differ.
    """
    known: dict[str, Callable[[int], Op]] = {
        "log": SoftTargetLogLoss,
        "softmaxlog": SoftmaxSoftTargetLoss,
    }
    kind = str(loss).lower()
    need(kind in known, f"soft targets are for the losses log and softmaxlog, not for '{loss}'")
    terms: Value = known[kind](1)(x, target)
    return terms


def loss_kind(name: str) -> str:
    """The loss type in lower case. Raises NetError where there is none of that name."""
    kind = str(name).lower()
    known = [*CATEGORICAL, *ATTRIBUTES]
    if kind not in known:
        hint = did_you_mean(kind, known)
        raise NetError(f"there is no loss '{name}'" + (f"; {hint}" if hint else ""))
    return kind


def label_shape(kind: str, x: tuple[int, ...]) -> tuple[int, ...]:
    """H x W x 1 x N for categorical labels, H x W x C x N for attributes; x is H x W x C x N."""
    return (x[0], x[1], x[2] if kind in ATTRIBUTES else 1, x[3])


def laid_out(labels: np.ndarray, kind: str, x: tuple[int, ...], what: str) -> np.ndarray:
    """Labels or weights with one entry for each score or position, turned to our axes.

    `labels` has four axes, or as many elements as there are images: one for each image. Raises
    NetError where they fit neither way.
    """
    wanted = label_shape(kind, x)
    if labels.size == x[3]:
        labels = labels.reshape(1, 1, 1, x[3], order="F")
    fits = all(have in (1, want) for have, want in zip(labels.shape, wanted, strict=True))
    need(
        fits and (what != "labels" or labels.size == x[3] or labels.shape == wanted),
        f"{what} of {_matlab(labels.shape)} do not fit scores of {_matlab(x)}: there must be one"
        f" for each image, or {_matlab(wanted)}",
    )
    turned = np.broadcast_to(labels, wanted).T
    return turned if kind in ATTRIBUTES else turned[:, 0]


def per_position(given: Value, x: Value, kind: str, what: str = "labels") -> Value:
    """Labels or weights [N, W, H], or [N, C, W, H] for attributes, from any form they may have.

    There may be one for each image, or one for each position (or attribute); weights are repeated
    along every axis of extent 1.
    """
    n, c, w, h = x.shape
    by_attribute = kind in ATTRIBUTES
    wanted = (n, c if by_attribute else 1, w, h)
    if given.type.size == n:
        given = View((n, 1, 1, 1))(given)
    repeats = what != "labels" or (given.type.size == n and wanted[1] == 1)
    axes = tuple(axis for axis in range(4) if given.shape[axis] == 1 < wanted[axis])
    fits = all(given.shape[axis] == wanted[axis] for axis in range(4) if axis not in axes)
    need(
        fits and (repeats or not axes),
        f"{what} of {shown(given.shape)} do not fit scores of {shown(x.shape)}",
    )
    whole: Value = given
    if axes:
        kept = tuple(extent for axis, extent in enumerate(wanted) if axis not in axes)
        whole = Broadcast(wanted, axes)(View(kept)(given))
    return whole if by_attribute else View((n, w, h))(whole)


def check_labels(labels: np.ndarray, kind: str, classes: int) -> None:
    """Raise NetError unless labels are whole numbers 0 .. classes, or -1, 0 and 1."""
    low, high = (-1, 1) if kind in ATTRIBUTES else (0, classes)
    bad = ~((labels >= low) & (labels <= high) & (labels == np.trunc(labels)))
    if bad.any():
        raise NetError(f"label {labels[bad][0]:g} is none of {low} .. {high}; 0 means ignored")


def _matlab(shape: tuple[int, ...]) -> str:
    return shown(shape[::-1])
