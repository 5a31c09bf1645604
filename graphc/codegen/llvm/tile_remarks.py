"""What is told of a product in register tiles: read off the tiling that the code was made with."""

from __future__ import annotations

import math
from collections.abc import Iterator

from graphc.codegen.llvm.loop_words import Loops, Names, product_loops
from graphc.codegen.llvm.operand import LINE_BYTES
from graphc.codegen.llvm.packing import packed_items, row_step
from graphc.codegen.llvm.product import Product
from graphc.codegen.llvm.said import Said, listed, many, more
from graphc.codegen.llvm.target import ITEM_BYTES, Target
from graphc.codegen.llvm.tile_choice import LONGEST_SUM, RESULT_CACHES, STREAMED_SUM, candidates
from graphc.codegen.llvm.tiled_product import TiledProduct
from graphc.codegen.llvm.tiling import TileGroup, Tiling
from graphc.plan.budget import shown

RIVALS = 2  # that are named of each kind

# Why results are stored through the caches, by the words of `Tiling.held`.
_HELD = {
    "small": "{bytes} may wait in a cache until it is read",
    "long sums": f"with more than {STREAMED_SUM} products a result, stores take little of the time",
    "chunks": "the sums wait in memory between chunks, and are in a cache already",
    "parts of lines": f"tiles do not write whole lines of {LINE_BYTES} bytes",
    "shared cache": "the cache that cores share takes them faster than memory",
}


def tile_remarks(part: TiledProduct, target: Target, names: Names) -> Iterator[Said]:
    """All about one product."""
    loops = product_loops(part.product, names)
    yield _tile(part, target, loops)
    yield from _instead(part, target, loops)
    yield _shares(part, loops)
    yield _sum(part, loops)
    yield _operands(part, names, loops)
    yield from _edges(part, loops)
    yield _results(part, target, names)


def peak(product: Product, cost: float, lanes: int) -> float:
    """The modelled part of a core's multiply-add peak, padding counted as work."""
    skipped = 1
    for step in product.stepped.values():
        skipped *= step.divisor
    return product.size(product.each) * product.size(product.over) / lanes / skipped / cost


def _tile(part: TiledProduct, target: Target, loops: Loops) -> Said:
    tiling, size = part.tiling, part.product.extents
    deep = size[tiling.deep] if tiling.deep else 1
    sums = tiling.rows * deep * tiling.vectors
    wide = target.lanes(tiling.a.buffer.dtype)
    share = peak(part.product, tiling.cost, wide)
    rows = "1 row"
    if tiling.row:
        rows = f"{many(tiling.rows, 'row')} ({loops.sized(tiling.row)})"
    if tiling.deep:
        rows += f" x all {deep} of {loops(tiling.deep)}"
    vectors = f"{many(tiling.vectors, 'vector')} of {tiling.lanes} ({loops.sized(tiling.vector)})"
    said = f"register tiles of {rows} x {vectors}: {sums} sums in {target.registers} registers"
    if tiling.lanes < wide:
        said += f"; {tiling.lanes} lanes of {wide}, as the others would be empty"
    blocks = [group.rows for group in tiling.groups for _ in range(group.count)]
    if len(set(blocks)) > 1:
        counted = {r: blocks.count(r) for r in sorted(set(blocks), reverse=True)}
        said += f"; the rows are cut into {listed([f'{n} of {r}' for r, n in counted.items()])}"
    if part.tail is not None:
        said += f"; the last vector has {part.tail} of its {tiling.lanes} lanes in use"
    said += f"; modelled at {100 * share:.0f} % of the multiply-add peak"
    facts = {
        "form": "register tiles",
        "rows": tiling.rows,
        "row_axis": loops(tiling.row) if tiling.row else None,
        "deep": deep,
        "vectors": tiling.vectors,
        "lanes": tiling.lanes,
        "vector_axis": loops(tiling.vector),
        "tail": part.tail or 0,
        "sums": sums,
        "registers": target.registers,
        "cost": tiling.cost,
        "peak": round(share, 4),
    }
    return Said("form", said, facts)


# -- what else there was ----------------------------------------------------------------------


def _roles(tiling: Tiling) -> tuple[object, ...]:
    return (
        *(tiling.vector, tiling.row, tiling.deep, tiling.sliding, tiling.a.buffer.name),
        *(tiling.lanes, bool(tiling.packing == "turn")),
    )


def _instead(part: TiledProduct, target: Target, loops: Loops) -> Iterator[Said]:
    """The runners-up: of the same axes, and the best of some others."""
    chosen = part.tiling
    found = sorted(candidates(part.product, target), key=lambda tiling: tiling.cost)
    rest = found[1:]  # of equal costs the first is taken, here too
    same = [tiling for tiling in rest if _roles(tiling) == _roles(chosen)][:RIVALS]
    others = [tiling for tiling in rest if _roles(tiling) != _roles(chosen)]
    best = {_roles(tiling): tiling for tiling in reversed(others)}.values()
    other = sorted(best, key=lambda tiling: tiling.cost)[:RIVALS]
    said = [_rival(tiling, chosen, loops, named=False) for tiling in same]
    said += [_rival(tiling, chosen, loops, named=True) for tiling in other]
    if said:
        rivals = [_rival_facts(tiling, loops) for tiling in (*same, *other)]
        facts = {"candidates": len(found), "rivals": rivals, "cost": chosen.cost}
        yield Said("instead", f"of {len(found):,} tiles, next: {'; '.join(said)}", facts)


def _rival(tiling: Tiling, chosen: Tiling, loops: Loops, named: bool) -> str:
    words = f"{tiling.rows} x {tiling.vectors}"
    if named:
        words += f" of {tiling.lanes} lanes along {loops(tiling.vector)}"
        words += f", rows along {loops(tiling.row)}" if tiling.row else ", no rows"
        words += f" by all of {loops(tiling.deep)}" if tiling.deep else ""
        words += f", windows along {loops(tiling.sliding)} written out" if tiling.sliding else ""
        words += ", one operand transposed" if tiling.packing == "turn" else ""
    return f"{words} takes {more(tiling.cost, chosen.cost)}"


def _rival_facts(tiling: Tiling, loops: Loops) -> dict[str, object]:
    return {
        "rows": tiling.rows,
        "row_axis": loops(tiling.row) if tiling.row else None,
        "vectors": tiling.vectors,
        "lanes": tiling.lanes,
        "vector_axis": loops(tiling.vector),
        "cost": tiling.cost,
    }


# -- what threads share -----------------------------------------------------------------------


def _shares(part: TiledProduct, loops: Loops) -> Said:
    tiling, size = part.tiling, part.product.extents
    columns = min(tiling.vectors * tiling.lanes * tiling.wide, size[tiling.vector])
    covered = [(tiling.vector, columns)]
    if tiling.row:
        covered.insert(0, (tiling.row, min(tiling.panel_rows, size[tiling.row])))
    if tiling.line:
        lines = size[tiling.line] if tiling.lines_together else tiling.lines
        covered.append((tiling.line, lines))
    covered += [(axis, size[axis]) for axis in (*tiling.whole_lines, tiling.deep) if axis]
    words = [_part(n, size[axis], loops(axis)) for axis, n in covered]
    panels = part.shares.extent
    said = f"threads share {many(panels, 'panel')}: each covers {listed(words)}"
    if panels == 1:
        said = f"one panel covers {listed(words)}"
    if part.joined > 1:
        what = f"places along {loops(tiling.line)}" if tiling.line else "tiles of rows"
        said += f"; threads share its {part.joined} {what}, too, and do theirs of a panel together"
    if tiling.beside > 1 and tiling.wide == 1:
        said += f"; a chunk passes over up to {tiling.beside} of them that follow each other, so"
        said += f" that {loops.names.array(tiling.a.buffer)} comes from memory once for all of them"
    if tiling.by_rows:
        said += "; a few whole rows of the result, so that memory is written in long pieces"
    elif panels > -(-part.blocks // tiling.wide) and tiling.vectors_outside:
        b = loops.names.array(tiling.b.buffer)
        said += f"; panels that read the same vectors of {b} follow each other"
    facts = {
        "shares": part.extent,
        "panels": panels,
        "joined": part.joined,
        "beside": tiling.beside,
        "panel": [{"axis": loops(axis), "covers": n, "of": size[axis]} for axis, n in covered],
    }
    return Said("shares", said, facts)


def _part(covered: int, extent: int, axis: str) -> str:
    return f"all {extent:,} of {axis}" if covered == extent else f"{covered:,} of {axis}"


# -- sums and operands ------------------------------------------------------------------------


def _sum(part: TiledProduct, loops: Loops) -> Said:
    tiling, product = part.tiling, part.product
    terms = product.size(product.over)
    inner = product.size(tiling.inner)
    if tiling.strip:
        inner = inner // product.extents[tiling.inner[0]] * tiling.strip
    facts: dict[str, object] = {"terms": terms, "longest": tiling.longest, "chunk": None}
    if not tiling.chunked:
        said = f"a result's sum, of {many(terms, 'product')}, stays in one register, as one"
        said += f" of up to {tiling.longest:,} may"
        return Said("sum", said, facts)
    held = part.sums * ITEM_BYTES[tiling.a.buffer.dtype]
    if tiling.longest == LONGEST_SUM:
        why = f"more than {tiling.longest:,} in one register lose digits"
        reason = "error"
    else:
        why = f"of more than {tiling.longest:,} the operand read in vectors leaves the caches"
        reason = "cache"
    over = [*tiling.chunks, *(tiling.inner[:1] if tiling.strip else [])]
    along = listed(list(dict.fromkeys(loops(axis) for axis in over)))
    said = f"a result's sum, of {many(terms, 'product')}, is made in chunks of {inner:,}, cut along"
    said += f" {along}: {why}; a panel's sums wait between chunks in {shown(held)} of its thread"
    return Said("sum", said, {**facts, "chunk": inner, "reason": reason, "scratch_bytes": held})


def _operands(part: TiledProduct, names: Names, loops: Loops) -> Said:
    tiling, product = part.tiling, part.product
    a, b = names.array(tiling.a.buffer), names.array(tiling.b.buffer)
    item = ITEM_BYTES[tiling.b.buffer.dtype]
    block = shown(packed_items(product, tiling) * item)
    how = {"": "read in vectors as it lies", "copy": "copied", "turn": "transposed"}[tiling.packing]
    said = f"{b} is {how}"
    if tiling.packing == "copy":
        assert tiling.innermost is not None
        apart = abs(tiling.b.strides.get(tiling.innermost, 0)) * item
        said += f" into a dense block of {block} first: vectors {apart:,} bytes apart would share"
        said += " few sets of the caches, or lie in more pages than are at hand"
    elif tiling.packing:
        said += f" into a block of {block} first: it lies along the sum, not along the lanes"
    said += f"; {a} is {_numbers(tiling)}"
    if row_step(tiling):
        said += ", from a dense copy of its rows in each chunk"
    elif tiling.packs_tiles:
        said += (
            ", from a copy of each chunk in which every tile has its rows of a term side by side"
        )
    if tiling.sliding:
        said += f", each loaded once for all windows along {loops(tiling.sliding)} that meet it"
    if tiling.wide > 1:
        wide = shown(tiling.wide * tiling.vectors * tiling.lanes * item)
        said += f"; {b} comes from memory, so it is read in pieces of {wide} a row"
    facts = {
        "vectors_of": names.plain(tiling.b.buffer.name),
        "numbers_of": names.plain(tiling.a.buffer.name),
        "packing": tiling.packing or None,
        "packed_bytes": packed_items(product, tiling) * item,
        "copied_numbers": tiling.packs_tiles,
        "elementwise": tiling.elementwise,
        "sliding": bool(tiling.sliding),
        "wide_vectors": tiling.wide * tiling.vectors,
    }
    return Said("operands", said, facts)


def _numbers(tiling: Tiling) -> str:
    if tiling.a.spread:
        return "loaded in pieces that are spread over the lanes of several groups"
    if tiling.elementwise:
        return "read in vectors, too: its lanes are the same"
    return "read one number at a time, put into all lanes"


# -- edges and results ------------------------------------------------------------------------


def _edges(part: TiledProduct, loops: Loops) -> Iterator[Said]:
    """Where padding is left out."""
    tiling, product = part.tiling, part.product
    tiles = sum(group.count for group in tiling.groups)
    clipped = sum(group.count for group in tiling.groups if _is_clipped(group, tiling, product))
    loose = [guard for guard in product.guards if guard not in tiling.fixed]
    axes = dict.fromkeys(axis for guard in loose for axis in guard.terms if axis in product.over)
    said = []
    if clipped and tiling.tied:
        are = "are" if clipped > 1 else "is"
        said.append(
            f"{clipped} of {tiles} tiles of a line {are} code apart: for each tap along"
            f" {loops(tiling.tied)} without the rows that would read padding"
        )
    if axes:
        taps = listed([loops(axis) for axis in axes])
        said.append(f"loops over {taps} are cut short where they would read padding")
    if said:
        facts = {"edge_tiles": clipped, "tiles": tiles, "clipped": [loops(axis) for axis in axes]}
        yield Said("edges", "; ".join(said), facts)


def _is_clipped(group: TileGroup, tiling: Tiling, product: Product) -> bool:
    """Whether some rows of a tile miss some taps."""
    if tiling.tied is None:
        return False
    whole = [piece for piece in group.pieces if len(piece.rows) == group.rows]
    return sum(piece.last - piece.first for piece in whole) < product.extents[tiling.tied]


def _results(part: TiledProduct, target: Target, names: Names) -> Said:
    tiling = part.tiling
    buffer = part.product.store_nodes()[0].address.buffer
    result = names.array(buffer)
    held = math.prod(buffer.shape) * ITEM_BYTES[buffer.dtype]
    if tiling.streamed and held < RESULT_CACHES * target.l2_bytes:
        said = f"{result} goes past the caches: no step reads its {shown(held)}, which memory takes"
        said += " faster than the cache that cores share"
    elif tiling.streamed:
        said = f"{result} goes past the caches: its {shown(held)} are at least {RESULT_CACHES}"
        said += " second-level caches, and lines written whole need not be read first"
    else:
        why = _HELD[tiling.held].format(bytes=shown(held))
        said = f"{result} is stored through the caches: {why}"
    if tiling.turned:
        said += "; sums are transposed on the way, as neighbours in it lie along rows"
    elif tiling.lines_inside:
        said += "; row by row, as lines lie nearer to each other in it than rows"
    facts = {"streamed": tiling.streamed, "held": tiling.held or None, "bytes": held}
    return Said("results", said, {**facts, "transposed": tiling.turned})
