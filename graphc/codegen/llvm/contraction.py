"""The emitter of contractions: convolution, inner product and their gradients in register tiles."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.dot_tile import DotProduct
from graphc.codegen.llvm.dot_tiling import choose_copied_dot, choose_dot
from graphc.codegen.llvm.function import EmittedKernel, kernel_function
from graphc.codegen.llvm.groups import with_groups_in_lanes
from graphc.codegen.llvm.loops import whole
from graphc.codegen.llvm.product import Cut, Product, products, whole_product
from graphc.codegen.llvm.row_sums import RowSums, choose_row_sums
from graphc.codegen.llvm.scratch import Scratch
from graphc.codegen.llvm.tap_sums import TapSums
from graphc.codegen.llvm.tap_tiling import choose_tap_sums
from graphc.codegen.llvm.target import Target
from graphc.codegen.llvm.tile_choice import choose_tiling
from graphc.codegen.llvm.tiled_product import TiledProduct
from graphc.codegen.llvm.vector import Values
from graphc.codegen.llvm.window_dot import WindowDot, choose_window_dot
from graphc.ir.types import REAL
from graphc.kernel.contraction import Contraction, match
from graphc.kernel.lang import Kernel

Tiled = TiledProduct | DotProduct | WindowDot | TapSums | RowSums
FEW_PHASES = 4  # products that are worth comparing with a schedule for all of them at once
EMPTY_LANES = 0.1  # of all lanes, from which on the last vector is worth code of its own
# Forms, as remarks name them.
TILES, DOTS, TAPS = "register tiles", "dot products", "sums of all taps in registers"
COPIED = "dot products with a copied operand"
WINDOWS = "dot products in windows"
ALONE, CUT = "undivided", "with the lanes beyond full vectors apart"
GROUPED = "with several groups in a vector"
GAIN = 0.95  # of the modelled time, at most, for twice the code


@dataclass
class Weighed:
    """Modelled costs of the forms that were looked at, by their names.

    products: those of a product by itself, in the order of `Product`s. wholes: of the kernel, in
    the forms that take all of its products at once, or cut it in parts.
    """

    products: list[tuple[Product, dict[str, float]]] = field(default_factory=list)
    wholes: dict[str, float] = field(default_factory=dict)


@dataclass
class Tiles:
    """What was decided: the parts of a kernel, and what else was weighed."""

    parts: list[Tiled]
    weighed: Weighed
    contraction: Contraction


def emit_contraction(
    module: ir.Module, kernel: Kernel, target: Target, name: str
) -> EmittedKernel | None:
    """Add `kernel` to `module` as a tiled contraction; None where it is none that tiles suit."""
    contraction = match(kernel)
    if contraction is None or contraction.left.buffer.dtype not in REAL:
        return None
    weighed = Weighed()
    tiled = tiled_parts(contraction, target, weighed)
    if not tiled:
        return None
    parts = [part.product for part in tiled]
    function = kernel_function(module, kernel.buffers, name)
    scratch_bytes = _emit(function, kernel, target, tiled)
    extent = sum(part.extent for part in tiled)
    steps = sum(p.size(p.each) * p.size(p.over) for p in parts)
    # Shares that may be joined read the same: a piece should have all of them.
    grain = max((_grain(p) * (extent // p.extent) for p in tiled if _grain(p) > 1), default=1)
    made = Tiles(tiled, weighed, contraction)
    return EmittedKernel(function, extent, 1, 2.0 * steps, (), scratch_bytes, grain, made=made)


def _grain(part: Tiled) -> int:
    """Shares of a part that are best done as one."""
    if isinstance(part, TiledProduct):
        return part.grain
    return part.joined if isinstance(part, TapSums | RowSums) else 1


def tiled_parts(
    contraction: Contraction, target: Target, weighed: Weighed | None = None
) -> list[Tiled]:
    """What the contraction becomes; nothing where no tiles suit. What it might: in `weighed`."""
    weighed = weighed or Weighed()
    windows = _windows(contraction, target)
    if windows is not None:
        weighed.wholes[WINDOWS] = windows.tiling.cost
    parts = products(contraction)
    if windows is not None and (parts is None or len(parts) > FEW_PHASES):
        return [windows]
    found = _all_tiled([_tiled(product, target, weighed) for product in parts or ()])
    if found:
        weighed.wholes[ALONE] = _cost(found)
    for cut in _cuts(contraction, target):
        halves = _cut(contraction, *cut, target, weighed)
        if halves:
            weighed.wholes[CUT] = min(_cost(halves), weighed.wholes.get(CUT, math.inf))
        if halves and (not found or _cost(halves) < GAIN * _cost(found)):
            found = halves
    grouped = _grouped(contraction, target)
    if grouped:
        weighed.wholes[GROUPED] = _cost(grouped)
    if grouped and (not found or _cost(grouped) < _cost(found)):
        found = grouped
    if windows is not None and (not found or windows.tiling.cost < _cost(found)):
        return [windows]
    return found


def _cuts(contraction: Contraction, target: Target) -> Iterator[tuple[Cut, Cut]]:
    """The axes of which the last vector would be mostly empty, without it and it alone."""
    lanes = target.lanes(contraction.left.buffer.dtype)
    operands = (contraction.left, contraction.right)
    divided = {
        axis
        for operand in operands
        for position in operand.index
        if position.divisor > 1
        for axis, _ in position.affine.terms
    }
    for axis in contraction.each:
        rest = axis.extent % lanes
        empty = (lanes - rest) / (axis.extent - rest + lanes)
        if axis in divided or axis.extent <= lanes or empty <= EMPTY_LANES:
            continue
        if 0 < rest <= lanes // 2:
            full = axis.extent - rest
            yield Cut(axis, 0, full), Cut(axis, full, rest)


def _cut(
    contraction: Contraction, full: Cut, rest: Cut, target: Target, weighed: Weighed
) -> list[Tiled]:
    """The contraction in two parts; in the second, lanes lie along another axis or the fold."""
    first, last = products(contraction, full), products(contraction, rest)
    if first is None or last is None:
        return []
    parts = [_tiled(product, target, weighed) for product in first]
    return _all_tiled([*parts, *(_tiled_rest(product, target, weighed) for product in last)])


def _tiled_rest(product: Product, target: Target, weighed: Weighed) -> Tiled | None:
    tiled, dot = _tiled(product, target, weighed), choose_copied_dot(product, target)
    if dot is not None:
        weighed.products[-1][1][COPIED] = dot.cost
    if dot is not None and (tiled is None or dot.cost < tiled.tiling.cost):
        return DotProduct(product, dot)
    return tiled


def _all_tiled(parts: Sequence[Tiled | None]) -> list[Tiled]:
    """The parts, or none where one of them is missing."""
    found = [part for part in parts if part is not None]
    return found if len(found) == len(parts) else []


def _cost(parts: Sequence[Tiled]) -> float:
    return sum(part.tiling.cost for part in parts)


def _grouped(contraction: Contraction, target: Target) -> list[Tiled]:
    """The contraction with several small groups in each vector; nothing where it has none."""
    operands = (contraction.left, contraction.right)
    left, right = (
        {axis for p in operand.index for axis, _ in p.affine.terms} for operand in operands
    )
    if not left & right & set(contraction.each):
        return []
    lanes = target.lanes(contraction.left.buffer.dtype)
    parts: list[Tiled | None] = []
    for product in products(contraction) or ():
        joined = with_groups_in_lanes(product, lanes)
        tiling = None if joined is None else choose_tiling(joined, target)
        parts.append(None if joined is None or tiling is None else TiledProduct(joined, tiling))
    return _all_tiled(parts)


def _windows(contraction: Contraction, target: Target) -> WindowDot | None:
    """The contraction in dots, where it reads windows and its operands lie so."""
    product = whole_product(contraction)
    tiling = None if product is None else choose_window_dot(product, target)
    return None if product is None or tiling is None else WindowDot(product, tiling)


def _tiled(product: Product, target: Target, weighed: Weighed) -> Tiled | None:
    """The cheapest form of a product."""
    rows = choose_row_sums(product, target)
    if rows is not None:
        weighed.products.append((product, {}))
        return RowSums(product, rows)
    tiling, dot = choose_tiling(product, target), choose_dot(product, target)
    taps = choose_tap_sums(product, target)
    forms = ((TILES, tiling), (DOTS, dot), (TAPS, taps))
    costs = {form: found.cost for form, found in forms if found is not None}
    weighed.products.append((product, costs))
    if not costs:
        return None
    if taps is not None and taps.cost == min(costs.values()):
        return TapSums(product, taps)
    if dot is not None and dot.cost == min(costs.values()):
        return DotProduct(product, dot)
    assert tiling is not None
    return TiledProduct(product, tiling)


def _emit(function: ir.Function, kernel: Kernel, target: Target, tiled: list[Tiled]) -> int:
    """The function's text; how many bytes each thread works in."""
    values = Values.of_kernel(function, kernel, target)
    builder, frame = values.builder, values.frame
    *_, low, high, _, place = function.args
    scratch = Scratch(builder, place)
    items = max(part.scratch_items for part in tiled)
    sums = scratch.array(tiled[0].tiling.a.buffer.dtype, items) if items else place
    extent = sum(part.extent for part in tiled)

    def share_of(part: Tiled, end: ir.Value) -> ir.Value:
        """Every thread has its share of every part: their iterations are not equally long."""
        if len(tiled) == 1:
            return end
        doubled = builder.mul(end, whole(2 * part.extent))
        return builder.udiv(builder.add(doubled, whole(extent)), whole(2 * extent))  # the nearest

    for part in tiled:
        part.emit(frame, values, sums, share_of(part, low), share_of(part, high))
    builder.ret_void()
    return scratch.bytes
