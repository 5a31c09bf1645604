"""Caffe's layers that pick rows by number: Embed and BatchReindex."""

from __future__ import annotations

from graphc.frontends.caffe.layer import LayerContext, layer
from graphc.frontends.caffe.neurons import given_filler
from graphc.ir.graph import Value
from graphc.ops.linear import AddBias
from graphc.ops.rows import TakeRows


@layer("Embed", bottoms=1)
def embed(c: LayerContext) -> Value:
    """The learned row that each number of the bottom names, plus a bias."""
    options = c.options("embed_param")
    (index,) = c.bottoms
    extents = {name: options.get(name) for name in ("input_dim", "num_output")}
    for name, extent in extents.items():
        if extent < 1:
            raise c.fail(f"{name} must be given and be at least 1", name)
    table = c.parameter(0, tuple(extents.values()), given_filler(options, "weight_filler"))
    rows: Value = TakeRows()(table, index)
    if not options.get("bias_term"):
        return rows
    bias = c.parameter(1, (extents["num_output"],), given_filler(options, "bias_filler"))
    shifted: Value = AddBias(len(index.shape))(rows, bias)
    return shifted


@layer("BatchReindex", bottoms=2)
def batch_reindex(c: LayerContext) -> Value:
    """Bottom 0's items in the order that bottom 1 says; an item may come several times."""
    x, order = c.bottoms
    if not x.shape:
        raise c.fail(f"'{c.layer.bottoms[0]}' is a single number and has no items to reorder")
    if len(order.shape) != 1:
        raise c.fail(
            f"'{c.layer.bottoms[1]}' of shape {list(order.shape)} must be a list of item numbers,"
            " with 1 axis"
        )
    picked: Value = TakeRows()(x, order)
    return picked
