"""What one iteration of a product's shared loop covers: rows, lines, taps of a window."""

from __future__ import annotations

import math

from graphc.codegen.llvm.operand import LINE_BYTES
from graphc.codegen.llvm.packed_tiles import points, taps_of, tile_items
from graphc.codegen.llvm.product import Factor, Product
from graphc.codegen.llvm.target import ITEM_BYTES, Target
from graphc.codegen.llvm.tiling import Tiling
from graphc.kernel.lang import Axis

SHARES = 12  # the shared loop has so many iterations, where panels stay large enough
FEWEST_TILES = 8
FEWEST_SHARES = 8  # else threads have unequal parts
UNPACKED_ROWS = 128  # of a panel that has its sums in registers and reads b as it lies
PIECE_BYTES = 768  # of a row of b, whose like is asked for while a chunk so wide is multiplied
WIDE_BYTES = 3072  # the same where pieces of one row do not follow each other
WAYS = 16  # places, at least, that the second-level cache has for addresses of one set
WAITING_PART = 0.62  # of the second-level cache, for sums of all that a thread's rows of b meet
BESIDE_PART = 0.4  # the same for blocks of vectors that a chunk passes over
CHUNK_PART = 0.25  # the same for what such a chunk has of both operands
FEW_ROWS = 16  # that memory has less time for than the multiplications of more would take
CHUNKS_HELD = 10  # chunks of that width that would fill the second-level cache
LEAST_STRIP = 16  # terms of a chunk
SHARED_SETS = 512  # bytes from line to line that leave most sets of the first-level cache empty
COPIED_FOR = 8  # vectors, at least, that meet each number which is copied for a tile
LEAST_SCRATCH, MOST_SCRATCH = 96 << 10, 256 << 10  # bytes of a panel's sums


def scratch_bytes(target: Target) -> int:
    """How much memory the sums of a panel may take: they stay in the second-level cache."""
    return min(max(target.l2_bytes // 4, LEAST_SCRATCH), MOST_SCRATCH)


def arrange_shares(tiling: Tiling, product: Product, target: Target, packs: bool) -> None:
    """Decide what one iteration of the shared loop covers.

    Large panels read b, or copy it where it `packs`, seldom; small ones leave enough shares for
    many threads.
    """
    taken = (tiling.vector, tiling.row, tiling.deep)
    tiling.outer = [axis for axis in product.each if axis not in taken]
    tiling.outer.sort(key=lambda axis: -abs(tiling.a.strides.get(axis, 0)))
    extent = product.extents[tiling.row] if tiling.row else 1
    deep = product.extents[tiling.deep] if tiling.deep else 1
    vectors = -(-product.extents[tiling.vector] // tiling.lanes)
    others = product.size(tiling.outer) * -(-vectors // tiling.vectors)
    item = ITEM_BYTES[tiling.b.buffer.dtype]
    width = tiling.vectors * tiling.lanes * item
    most_rows = max(1, scratch_bytes(target) // (width * deep))
    tiling.panel_rows = extent
    if tiling.by_rows:
        # A few long rows are written side by side: memory takes many short pieces more slowly.
        tiling.panel_rows = min(tiling.rows, extent)
        tiling.vectors_outside = False
        return
    if not tiling.fixed:
        divides = tiling.chunked and not (packs or tiling.packing) and extent > tiling.rows
        others = _take_whole_lines(tiling, product, others, most_rows, extent if divides else None)
        most_rows //= product.size(tiling.whole_lines)
        tiles = -(-extent // tiling.rows)
        wanted = tiles // max(1, SHARES // others)
        packed = packs or tiling.packing
        most = (most_rows if tiling.chunked or packed else UNPACKED_ROWS) // tiling.rows
        # Of what is transposed each panel of fewer rows would transpose the same again.
        fewest = tiles if tiling.packing == "turn" else FEWEST_TILES
        largest = max(1, min(tiles, most, max(wanted, fewest)))
        tiling.panel_rows = even_strip(tiles, largest) * tiling.rows
    _widen(tiling, product, target)
    free = _line_axes(tiling, product)
    groups = [] if packs or tiling.packing else neighbours(tiling, product)
    # Groups side by side take turns on each line of a: it would come from memory for each of them.
    copies = packs and target.near_pages > 0 and not _beside(tiling, product, [tiling.a], 1)
    if tiling.chunked and tiling.panel_rows >= extent and groups:
        _take_groups(tiling, product, target, groups[0], most_rows // extent, others)
    elif (tiling.chunked or copies) and tiling.panel_rows >= extent and free:
        if not (copies and _take_images(tiling, product, free, most_rows)):
            _take_lines(tiling, product, target, free[0], most_rows // extent, others)
    elif (tiling.chunked or tiling.packing) and tiling.panel_rows >= extent:
        plain = not (tiling.fixed or packs or tiling.wide > 1) and others < FEWEST_SHARES
        tiling.rows_together = plain and extent > tiling.rows
    if target.near_pages:
        strip, wide = tiling.strip, tiling.wide
        _take_blocks(tiling, product, target)
        tiling.packs_tiles = _packs_tiles(tiling, product, target)
        if wide == 1 and not tiling.packs_tiles and _is_narrow(tiling, target):
            tiling.beside, tiling.strip = 1, strip
    whole = product.size(product.over) * product.extents[tiling.vector] * item
    tiling.vectors_outside = whole > target.l2_bytes * 3 // 4  # b as a whole does not stay
    if tiling.vectors_outside and tiling.strip and tiling.panel_rows < extent <= most_rows:
        _join_rows(tiling, extent)


def _join_rows(tiling: Tiling, extent: int) -> None:
    """Let one panel have all rows, in place of several that would each read b from memory."""
    if not (tiling.fixed or tiling.packing or tiling.line or tiling.elementwise or tiling.wide > 1):
        tiling.panel_rows = extent
        tiling.rows_together = True


def _widen(tiling: Tiling, product: Product, target: Target) -> None:
    """Let a panel of few rows cover many blocks of vectors, where b comes from memory.

    Memory is slow where every row of b gives but a piece before the next row comes. So a chunk
    passes over all the columns for which sums can wait in the second-level cache, in pieces: of
    these, one and the next have to stay there, too. With more rows sums of so many columns take
    more time than memory: then each wide piece is a panel of its own.
    """
    b, extent = tiling.b, product.extents[tiling.row] if tiling.row else 0
    one_loop = len(tiling.inner) == 1 and not tiling.chunks and tiling.strip > 0
    few = extent <= tiling.panel_rows and extent < FEWEST_TILES * tiling.rows
    if not one_loop or not few or not _is_far_matrix(product, tiling, target):
        return
    item = ITEM_BYTES[b.buffer.dtype]
    width = tiling.vectors * tiling.lanes * item
    blocks = -(-product.extents[tiling.vector] * item // width)
    reach = PIECE_BYTES
    strip = target.l2_bytes // CHUNKS_HELD // PIECE_BYTES
    if target.near_pages:  # each row is in a page of its own
        strip = min(strip, target.near_pages)
    beside = int(target.l2_bytes * WAITING_PART) // (tiling.panel_rows * width)
    if not is_read_once(product, tiling, target):
        reach, beside = WIDE_BYTES, 1
        lines = _lines_held(target, b.strides.get(tiling.inner[0], 0) * item)
        strip = min(target.l2_bytes // 7 // WIDE_BYTES, lines * 3 // 16)
        reach = min(reach, scratch_bytes(target) // tiling.panel_rows)
    wide = min(reach // width, blocks // FEWEST_SHARES)
    if wide > 1:
        tiling.wide = wide
        tiling.beside = max(1, beside // wide)
        longest = max(LEAST_STRIP, min(strip, tiling.strip))
        tiling.strip = even_strip(product.extents[tiling.inner[0]], longest)


def _take_blocks(tiling: Tiling, product: Product, target: Target) -> None:
    """Let a chunk pass over many blocks of vectors, where each would read a from memory again.

    Their sums wait in the second-level cache, beside what a chunk has of both operands. Weight
    gradients of large maps and many channels are so.
    """
    extent = product.extents[tiling.row] if tiling.row else 0
    special = tiling.fixed or tiling.packing or tiling.elementwise or tiling.deep or tiling.wide > 1
    whole = not (tiling.outer or tiling.line or tiling.rows_together or tiling.panel_rows < extent)
    blocks = -(-product.extents[tiling.vector] // (tiling.vectors * tiling.lanes))
    if special or not (whole and tiling.strip) or blocks < FEWEST_SHARES:
        return
    item = ITEM_BYTES[tiling.b.buffer.dtype]
    if extent * product.size(product.over) * item <= target.l2_bytes:
        return
    width = tiling.vectors * tiling.lanes
    slot = extent * width * product.size(tiling.whole_lines) * item
    beside = min(int(target.l2_bytes * BESIDE_PART) // slot, blocks)
    if beside < 2:
        return
    tiling.beside = beside
    step = (extent + beside * width) * product.size(tiling.inner[1:]) * item
    longest = int(target.l2_bytes * CHUNK_PART) // step
    longest = max(LEAST_STRIP, min(longest, tiling.strip))
    tiling.strip = even_strip(product.extents[tiling.inner[0]], longest)


def _packs_tiles(tiling: Tiling, product: Product, target: Target) -> bool:
    """Whether tiles read a copy of a's numbers of a chunk, each one line after another.

    As it lies, a tile has a piece of every term in a page of its own. A copy pays where many blocks
    pass over it, or where a window's taps do, tiles are so narrow that several read each line, and
    the lines of a chunk push each other out of the first-level cache before.
    """
    a = tiling.a
    special = a.spread or product.stepped or tiling.lanes == 1 or tiling.elementwise or tiling.deep
    if special or tiling.fixed or tiling.row is None or a.strides.get(tiling.row) != 1:
        return False
    if not tiling.chunked or tiling.wide > 1 or points(product, tiling) is None:
        return False
    taps = taps_of(product, tiling)
    if tiling.beside > 1 and not (taps or a.guarded):
        return True
    item = ITEM_BYTES[a.buffer.dtype]
    bytes_held = tile_items(product, tiling) * item
    lines = tiling.lines * product.size(tiling.whole_lines)
    met = lines * tiling.vectors * tiling.beside
    step = a.strides[tiling.inner[-1]] * item
    narrow = _is_narrow(tiling, target) and step % SHARED_SETS == 0
    held = target.l1_bytes // 2 < bytes_held <= target.l2_bytes // 2
    return narrow and met >= COPIED_FOR and held


def _is_narrow(tiling: Tiling, target: Target) -> bool:
    """Whether registers are so few that several tiles read each line, not one or two."""
    piece = tiling.rows * ITEM_BYTES[tiling.a.buffer.dtype]
    return target.registers < 32 and 2 * piece < LINE_BYTES


def _lines_held(target: Target, step: int) -> int:
    """How many lines, each `step` bytes after the last, the second-level cache has places for."""
    way = 1 << (target.l2_bytes // WAYS).bit_length() - 1
    return way // math.gcd(step, way) * (target.l2_bytes // way)


def is_read_once(product: Product, tiling: Tiling, target: Target) -> bool:
    """Whether so few rows meet a matrix b from memory that reading it takes most of the time."""
    far = _is_far_matrix(product, tiling, target)
    return far and tiling.row is not None and product.extents[tiling.row] <= FEW_ROWS


def _is_far_matrix(product: Product, tiling: Tiling, target: Target) -> bool:
    """Whether a product has rows, columns and one fold, and its b comes from memory."""
    plain = not (product.guards or product.stepped or tiling.packing or tiling.elementwise)
    matrices = len(product.each) == 2 and len(product.over) == 1 and tiling.row is not None
    if not matrices or not plain or tiling.b.spread or tiling.deep:
        return False
    item = ITEM_BYTES[tiling.b.buffer.dtype]
    bytes_of_b = product.size(product.over) * product.extents[tiling.vector] * item
    return bytes_of_b > 2 * target.l2_bytes


def _line_axes(tiling: Tiling, product: Product) -> list[Axis]:
    """Axes that move a but not b, the one with the shortest steps first."""
    held = {step.each_axis for step in product.stepped.values()}
    free = [x for x in tiling.outer if x in tiling.a.strides and x not in tiling.b.strides]
    free = [x for x in free if x not in held]
    return sorted(free, key=lambda axis: abs(tiling.a.strides[axis]))


def _take_whole_lines(
    tiling: Tiling, product: Product, others: int, most_rows: int, divided: int | None
) -> int:
    """Let a panel cover all taps of a window, which share what they read and lie side by side.

    divided: so many rows a panel has whose tiles threads can share; few panels are enough then.
    Returns how many panels remain of `others`.
    """
    across = max(map(abs, product.store_strides(tiling.vector)))
    axes = _line_axes(tiling, product)
    if divided is not None:  # taps may move b as well, which no panel copies
        held = {step.each_axis for step in product.stepped.values()}
        axes += [x for x in tiling.outer if x not in tiling.a.strides and x not in held]
    for axis in axes:
        count = product.extents[axis]
        rows = most_rows // product.size([*tiling.whole_lines, axis])
        small = tiling.chunked and rows < FEWEST_TILES * tiling.rows
        apart = max(map(abs, product.store_strides(axis))) >= across
        shared = divided is not None and rows >= divided
        if small or apart or (others // count < SHARES and not shared):
            break
        tiling.whole_lines.append(axis)
        tiling.outer.remove(axis)
        others //= count
    return others


def _take_lines(
    tiling: Tiling, product: Product, target: Target, line: Axis, most: int, others: int
) -> None:
    """Let a panel cover several lines, as far as what they read stays in the second-level cache."""
    count = product.extents[line]
    step = abs(tiling.a.strides[line]) * ITEM_BYTES[tiling.a.buffer.dtype]
    tiles = sum(group.count for group in tiling.groups)
    wanted = max(others // SHARES, -(-FEWEST_TILES // tiles))
    if 2 * wanted > count:
        wanted = count  # rather than two uneven parts
    fits = max(1, target.l2_bytes // 2 // step)
    tiling.line = line
    lines = even_strip(count, max(1, min(most, count, wanted, fits)))
    while lines > 1 and others // count * -(-count // lines) < FEWEST_SHARES:
        lines -= 1
    tiling.lines = lines
    tiling.lines_together = count <= min(most, fits)
    tiling.outer.remove(line)


def _take_images(tiling: Tiling, product: Product, free: list[Axis], most_rows: int) -> bool:
    """Let a panel that copies b cover all lines of several images: a copy serves more tiles.

    False where no two images' sums fit into memory for `most_rows`, or too few panels would be.
    """
    if len(free) < 2:
        return False
    line, image = free[:2]
    most = most_rows // product.size([line, *([tiling.row] if tiling.row else [])])
    images, others = product.extents[image], product.size(tiling.outer)
    blocks = -(-product.extents[tiling.vector] // (tiling.vectors * tiling.lanes))
    blocks *= others // product.size([line, image])
    count = even_strip(images, max(1, min(most, images)))
    while count > 1 and blocks * -(-images // count) < FEWEST_SHARES:
        count -= 1
    if count == 1:
        return False
    tiling.whole_lines.append(line)
    tiling.line, tiling.lines = image, count
    tiling.outer = [axis for axis in tiling.outer if axis not in (line, image)]
    return True


def neighbours(tiling: Tiling, product: Product, lines: float = 2) -> list[Axis]:
    """Groups of so few channels that the next one begins a line or two further on in both operands.

    Those of fewer than a line, `lines` being 0.5, share it.
    """
    return _beside(tiling, product, [tiling.a, tiling.b], lines)


def _beside(tiling: Tiling, product: Product, factors: list[Factor], lines: float) -> list[Axis]:
    """Axes of both operands along which some of them have pieces so near to each other."""
    reach = lines * LINE_BYTES / ITEM_BYTES[tiling.a.buffer.dtype]
    held = {step.each_axis for step in product.stepped.values()}
    taken = (tiling.vector, tiling.row, tiling.deep)
    both = [x for x in product.each if x in tiling.a.strides and x in tiling.b.strides]
    found = [x for x in both if x not in held and x not in taken]
    steps = [max(abs(f.strides[x]) for f in factors) for x in found]
    return [x for x, step in zip(found, steps, strict=True) if step <= reach]


def _take_groups(
    tiling: Tiling, product: Product, target: Target, group: Axis, most: int, others: int
) -> None:
    """Let a panel cover several groups, and all taps of each, so that lines are read once.

    What all groups read of a chunk has to stay in the second-level cache.
    """
    for axis in _line_axes(tiling, product):
        if product.size([*tiling.whole_lines, axis]) <= most // FEWEST_TILES:
            tiling.whole_lines.append(axis)
            tiling.outer.remove(axis)
            others //= product.extents[axis]
    count = product.extents[group]
    most = max(1, most // product.size(tiling.whole_lines))
    tiling.line = group
    tiling.lines = even_strip(count, max(1, min(most, count, others // SHARES)))
    tiling.lines_together = count <= most
    tiling.outer.remove(group)
    if tiling.strip:
        first = tiling.inner[0]
        step = sum(abs(factor.strides.get(first, 0)) for factor in (tiling.a, tiling.b))
        fits = target.l2_bytes // 4 // (max(step, 1) * ITEM_BYTES[tiling.a.buffer.dtype])
        tiling.strip = even_strip(product.extents[first], max(1, min(tiling.strip, fits)))


def even_strip(extent: int, most: int) -> int:
    """Strips of at most `most`, as equal as can be."""
    return -(-extent // -(-extent // most))
