"""Caffe's layers that bring data to mean 0 and deviation 1: BatchNorm and MVN."""

from __future__ import annotations

import math

from graphc.error import NetError
from graphc.frontends.caffe.layer import LayerContext, layer
from graphc.frontends.caffe.shapes import viewed
from graphc.ir.core.axes import Broadcast, Mean
from graphc.ir.core.elementwise import Shift, Times
from graphc.ir.core.view import View
from graphc.ir.graph import Value
from graphc.ops.moments import (
    InverseDeviation,
    InverseSpread,
    Moments,
    QuotientOrZero,
    Standardize,
)


@layer("BatchNorm", bottoms=1)
def batch_norm(c: LayerContext) -> Value:
    """Normalise each channel by its mean and variance: those of this batch, or the stored ones.

    The three blobs are a sum of means, a sum of variances, and a sum of weights by which both are
    divided. In training every call scales them by moving_average_fraction and adds the batch's.
    """
    options = c.options("batch_norm_param")
    _need_rate_zero(c)
    bottom = c.bottoms[0]
    if not bottom.shape or not bottom.type.size:
        raise c.fail(f"BatchNorm takes a bottom with elements, not {list(bottom.shape)}")
    x = bottom if len(bottom.shape) > 1 else viewed(bottom, (*bottom.shape, 1))
    stored = options.get("use_global_stats") if options.has("use_global_stats") else None
    if stored is None:
        stored = c.phase == "TEST"
    channels = x.shape[1]
    sums = [c.statistics(0, (channels,)), c.statistics(1, (channels,)), c.statistics(2, (1,))]
    axes = (0, *range(2, len(x.shape)))
    if stored:
        weight = Broadcast((channels,), (0,))(View(())(sums[2]))
        mean, variance = (QuotientOrZero()(part, weight) for part in sums[:2])
    else:
        mean, variance = Moments(axes)(x)
        count = x.type.size // channels
        _renew(c, sums, mean, variance, count, options.get("moving_average_fraction"))
    factor = InverseDeviation(options.get("eps"))(variance)
    return viewed(Standardize(axes)(x, mean, factor), bottom.shape)


def _need_rate_zero(c: LayerContext) -> None:
    for spec in c.layer.params[:3]:
        if spec.lr_mult != 0:
            raise NetError(
                f"layer '{c.layer.name}': lr_mult of batch normalisation's statistics must be 0,"
                f" not {spec.lr_mult:g}: they are averages, not learned",
                spec.span,
            )


def _renew(
    c: LayerContext, sums: list[Value], mean: Value, variance: Value, count: int, fraction: float
) -> None:
    """The statistics after this call; the variance enters without bias."""
    unbiased = variance if count == 1 else Times(count / (count - 1))(variance)
    c.renew(0, Times(fraction)(sums[0]) + mean)
    c.renew(1, Times(fraction)(sums[1]) + unbiased)
    c.renew(2, Shift(1.0)(Times(fraction)(sums[2])))


@layer("MVN", bottoms=1)
def mean_variance_normalisation(c: LayerContext) -> Value:
    """Subtract the mean of each image's channel, or of each image, and divide by the deviation."""
    options = c.options("mvn_param")
    bottom = c.bottoms[0]
    rank = len(bottom.shape)
    if rank > 4 or not math.prod(bottom.shape):
        raise c.fail(f"MVN takes a bottom of up to 4 axes, with elements, not {list(bottom.shape)}")
    x = viewed(bottom, (*bottom.shape, *(1,) * (4 - rank)))
    axes = (1, 2, 3) if options.get("across_channels") else (2, 3)
    if options.get("normalize_variance"):
        mean, variance = Moments(axes)(x)
        factor = InverseSpread(options.get("eps"))(variance)
        return viewed(Standardize(axes)(x, mean, factor), bottom.shape)
    middle = Broadcast(x.shape, axes)(Mean(axes)(x))
    return viewed(x - middle, bottom.shape)
