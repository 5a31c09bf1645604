"""What is told of products that are not in register tiles of rows and vectors, of Winograd's sums,
and of copies.
"""

from __future__ import annotations

from collections.abc import Iterator

from graphc.codegen.llvm import winograd, winograd_gradient
from graphc.codegen.llvm.dot_tile import DotProduct
from graphc.codegen.llvm.interleave import Interleaving
from graphc.codegen.llvm.loop_words import Names, node_loops, product_loops
from graphc.codegen.llvm.row_sums import RowSums
from graphc.codegen.llvm.said import Said, listed, many
from graphc.codegen.llvm.tap_sums import TapSums
from graphc.codegen.llvm.target import ITEM_BYTES
from graphc.codegen.llvm.tile_remarks import peak
from graphc.codegen.llvm.transpose import Transposition
from graphc.codegen.llvm.window_dot import WindowDot
from graphc.kernel.winograd import Geometry
from graphc.plan.budget import shown


def dot_remarks(part: DotProduct, names: Names) -> Iterator[Said]:
    """A product whose operands lie along the sum."""
    tiling, loops = part.tiling, product_loops(part.product, names)
    item = ITEM_BYTES[tiling.a.buffer.dtype]
    share = peak(part.product, tiling.cost, tiling.lanes)
    rows = f"{many(tiling.rows, 'row')} ({loops.sized(tiling.row)})" if tiling.row else "one row"
    columns = many(tiling.columns, "column") if tiling.column else "one column"
    columns += f" ({loops.sized(tiling.column)})" if tiling.column else ""
    said = f"dot products: lanes along the sum, {tiling.lanes} along {loops.sized(tiling.along)};"
    said += f" tiles of {rows} x {columns}"
    if tiling.partial > 1:
        said += f", {tiling.partial} sums of each pair by turns"
    said += f"; modelled at {100 * share:.0f} % of the multiply-add peak"
    facts = {
        "form": "dot products",
        "rows": tiling.rows,
        "columns": tiling.columns,
        "lanes": tiling.lanes,
        "vector_axis": loops(tiling.along),
        "cost": tiling.cost,
        "peak": round(share, 4),
    }
    yield Said("form", said, facts)
    columns_of = tiling.group * tiling.columns
    said = f"threads share {many(part.extent, 'part')}: each covers"
    said += f" {many(min(tiling.panel, part.all_rows), 'row')} by"
    said += f" {min(columns_of, part.all_columns):,} of {many(part.all_columns, 'column')}"
    yield Said("shares", said, {"shares": part.extent, "panel_rows": tiling.panel})
    if tiling.chunk:
        said = f"all tiles of a panel pass over {tiling.chunk:,} points of the sum, which stay in"
        said += f" the first-level cache; sums wait meanwhile in {shown(part.sums * item)}"
        yield Said("sum", said, {"chunk": tiling.chunk, "scratch_bytes": part.sums * item})
    else:
        yield Said("sum", "the sum of a tile is done at once", {"chunk": None})
    if tiling.source is not None:
        copied = names.array(tiling.source.buffer)
        said = f"{copied} is copied first, once a thread: it does not lie along the sum"
        yield Said("operands", said, {"packing": "copy"})


def window_remarks(part: WindowDot, names: Names) -> Iterator[Said]:
    """A product under guards whose operands lie along the sum."""
    tiling, loops = part.tiling, product_loops(part.product, names)
    share = peak(part.product, tiling.cost, tiling.lanes)
    said = f"dot products in windows: lanes along the sum, {tiling.lanes} along"
    said += f" {loops.sized(tiling.along)}; tiles of {tiling.rows} of {loops.sized(tiling.row)}"
    said += f", {tiling.step} apart," if tiling.step > 1 else ""
    said += f" x {part.columns} of {loops(tiling.column)}" if tiling.column else " x 1"
    said += f"; modelled at {100 * share:.0f} % of the multiply-add peak"
    facts = {
        "form": "dot products in windows",
        "rows": tiling.rows,
        "columns": part.columns,
        "lanes": tiling.lanes,
        "vector_axis": loops(tiling.along),
        "cost": tiling.cost,
        "peak": round(share, 4),
    }
    yield Said("form", said, facts)
    outer = listed([loops.sized(axis) for axis in tiling.outer]) or "nothing"
    yield Said("shares", f"threads share {outer}", {"shares": part.extent})
    said = "rows of a tile that a tap does not meet read zeros, so that one code serves all tiles"
    yield Said("edges", said)


def tap_remarks(part: TapSums, names: Names) -> Iterator[Said]:
    """The weight gradient of a depthwise convolution."""
    tiling, loops = part.tiling, product_loops(part.product, names)
    share = peak(part.product, tiling.cost, tiling.lanes)
    taps = len(tiling.points)
    said = f"sums of all {taps} taps stay in registers for "
    said += (
        f"{many(tiling.vectors, 'vector')} of {tiling.lanes} along {loops.sized(tiling.vector)};"
    )
    said += f" {tiling.columns} of {loops.sized(tiling.column)} go together, so that what their"
    said += f" windows share is loaded once; modelled at {100 * share:.0f} % of the peak"
    facts = {
        "form": "sums of all taps in registers",
        "taps": taps,
        "vectors": tiling.vectors,
        "columns": tiling.columns,
        "lanes": tiling.lanes,
        "vector_axis": loops(tiling.vector),
        "cost": tiling.cost,
        "peak": round(share, 4),
    }
    yield Said("form", said, facts)
    said = f"threads share {part.extent:,} vectors of {loops(tiling.vector)}, best {part.joined}"
    yield Said("shares", f"{said} at a time", {"shares": part.extent})
    if tiling.line is not None:
        said = f"strips of {tiling.strip} of {loops.sized(tiling.line)}, for {tiling.wide} vectors"
        said += " before the next strip: what a strip reads and its sums stay in the second-level"
        said += " cache"
        yield Said("sum", said, {"strip": tiling.strip, "wide": tiling.wide})
    data = names.array(tiling.a.buffer)
    kept = (
        f"a tile copies the lines of {data} that its next lines meet again" if tiling.kept else ""
    )
    said = kept or f"{data} is read as it lies, for each line of taps again"
    yield Said("operands", said, {"kept_lines": bool(tiling.kept)})


def row_remarks(part: RowSums, names: Names) -> Iterator[Said]:
    """A sum of the rows of a matrix that comes from memory."""
    tiling, loops = part.tiling, product_loops(part.product, names)
    said = f"rows of {names.array(tiling.b.buffer)} are read once, {tiling.streams} side by side,"
    said += f" each from end to end, {tiling.lanes} lanes along {loops.sized(tiling.vector)}:"
    said += " memory is the limit, and this core reads it fastest in so many places"
    facts = {
        "form": "sums of rows in streams",
        "streams": tiling.streams,
        "lanes": tiling.lanes,
        "vector_axis": loops(tiling.vector),
        "cost": tiling.cost,
    }
    yield Said("form", said, facts)
    said = f"threads share {part.extent:,} vectors of {loops(tiling.vector)}, best {part.joined}"
    yield Said("shares", f"{said} at a time", {"shares": part.extent})
    said = f"sums wait in the first-level cache, {tiling.wide} vectors at most, and each"
    said += f" {tiling.streams} rows add one number to them"
    yield Said("sum", said, {"wide": tiling.wide})


def winograd_remarks(
    form: Geometry, chosen: winograd.Schedule | winograd_gradient.Schedule, names: Names
) -> Iterator[Said]:
    """A convolution, or its weight gradient, by Winograd's algorithm."""
    tile, points = chosen.transform.tile, chosen.transform.points
    said = f"Winograd's F({tile}x{tile}, {form.taps}x{form.taps}): {points} products of matrices in"
    said += f" register tiles of {many(chosen.rows, 'row')} x"
    said += f" {many(chosen.vectors, 'vector')} of {chosen.lanes}"
    facts = {
        "form": "winograd",
        "tile": tile,
        "taps": form.taps,
        "points": points,
        "rows": chosen.rows,
        "vectors": chosen.vectors,
        "lanes": chosen.lanes,
    }
    count = form.tiles(tile)
    if isinstance(chosen, winograd.Schedule):
        yield Said("form", f"{said}: tiles of the image by output channels", facts)
        units = form.groups * chosen.strips * form.blocks
        said = f"threads share {many(units, 'part')}: {many(chosen.strips, 'strip')} of up to"
        said += f" {chosen.strip:,} of {count:,} tiles x"
        said += f" {many(form.groups * form.blocks, 'block')} of {form.block} channels;"
        said += " a strip's windows and products stay in the second-level cache"
        yield Said("shares", said, {"shares": units, "strip": chosen.strip})
        return
    blocks = chosen.blocks
    yield Said("form", f"{said}: outputs by channels, summed over tiles of the image", facts)
    units = blocks.shares(form)
    said = f"threads share {units:,} pairs of blocks, {blocks.outputs} outputs by {blocks.channels}"
    yield Said("shares", f"{said} channels, and go through all {count:,} tiles", {"shares": units})


def copy_remarks(plan: Transposition | Interleaving, names: Names) -> Iterator[Said]:
    """A copy into another order."""
    if isinstance(plan, Transposition):
        loops = node_loops(plan.nodes, names)
        chain = listed([loops(axis) for axis in plan.chain])
        said = f"squares of {plan.size} x {plan.size} are transposed in registers, so that whole"
        said += f" lines move on both sides: neighbours are read along {chain}, and written along"
        said += f" {loops(plan.across)}"
        if plan.along > 1:
            said += f"; {plan.along} squares side by side along {chain} before those beside them,"
            said += " whose lines are far from theirs"
        if plan.streamed:
            said += "; lines are written past the caches: no cache would hold so many until they"
            said += " are read"
        facts = {"side": plan.size, "along": plan.along, "streamed": plan.streamed}
        yield Said("form", said, {"form": "transposed squares", **facts})
        return
    loops = node_loops(plan.copy.nodes, names)
    said = (
        f"{plan.count} registers of {plan.lanes} along {loops.sized(plan.long)} are shuffled into"
    )
    said += f" {'points' if plan.to_points else 'planes'} of {loops(plan.few)}"
    yield Said("form", said, {"form": "shuffled registers", "lanes": plan.lanes})
