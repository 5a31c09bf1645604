"""Caffe's layers that pick rows: Embed, BatchReindex and Filter."""

from __future__ import annotations

from math import prod

from graphc.frontends.caffe.layer import LayerContext, Selection, layer
from graphc.frontends.caffe.neurons import given_filler
from graphc.frontends.caffe.shapes import viewed
from graphc.ir.graph import Value
from graphc.ops.linear import AddBias
from graphc.ops.rows import NonzeroRows, NonzerosBefore, TakeRows


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


@layer("Filter")
def filter_items(c: LayerContext) -> tuple[Value, ...]:
    """The items of the other bottoms where the last bottom, the selector, is not 0.

    How many pass is known only when the net runs. A net is built for one number, at first for all
    items (as Caffe does), and `graphc.Net` builds it again where a call lets another number pass.
    """
    data = c.bottoms[:-1]
    if not data or len(c.layer.tops) != len(data):
        raise c.fail(
            "Filter takes a selector after the bottoms that it filters, and has a top for each of"
            f" these; there are {len(c.bottoms)} bottoms and {len(c.layer.tops)} tops"
        )
    selector = c.bottoms[-1]
    items = selector.shape[0] if selector.shape else 1
    if prod(selector.shape[1:]) != 1:
        raise c.fail(f"the selector holds one number an item, not {list(selector.shape)}")
    for name, x in zip(c.layer.bottoms, data, strict=False):
        if not x.shape or x.shape[0] != items:
            raise c.fail(f"'{name}' of shape {list(x.shape)} must have {items} items")
    known = c.around.shapes.get(c.layer.tops[0])
    count = known[0] if known and known[0] <= items else items
    c.around.selections.append(Selection(c.layer.bottoms[-1], c.layer.tops))
    flat = viewed(selector, (items,))
    rows = NonzeroRows(count)(flat, NonzerosBefore()(flat))
    return tuple(TakeRows()(x, rows) for x in data)
