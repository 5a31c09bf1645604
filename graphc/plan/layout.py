"""How values lie in memory: images channels-last, the user's arrays row-major, weights as read.

A layout is an order of a value's axes, outermost first; (0, 2, 3, 1) is channels-last. The loops of
convolutions and pooling run best when the channels of a pixel are neighbours, and all layers
between them must agree or copies are needed; so values that meet in a node share a region, and a
region that holds an operand read through a window (an index such as `2 * y + ky`) is channels-last
as a whole. So is one whose windows move over channels: there a pixel's are few, and neighbours.
Everything here is read off the kernels; no operator is known by name but the core ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

from graphc.ir.core.axes import Transpose
from graphc.ir.graph import Node, Value
from graphc.ir.types import row_major
from graphc.kernel.affine import affine
from graphc.kernel.contraction import KERNELS_REMEMBERED, match
from graphc.kernel.lang import Axis, Expr, Fold, Kernel, Let, Load, Local, Store, Var
from graphc.kernel.walk import statement_exprs, walk

Order = tuple[int, ...]
FEW = 4  # elements that would leave most lanes of a vector empty
SPACED_ROW = 256  # packed rows of a multiple of so many elements have a gap behind them
GAP = 16  # elements: a line of the caches


def channels_last(rank: int) -> Order:
    """(N, spatial..., C) for a value whose logical axes are (N, C, spatial...)."""
    return (0, *range(2, rank), 1)


def strides_of(shape: tuple[int, ...], order: Order) -> tuple[int, ...]:
    """Dense strides, in elements, with the axes in that order; row-major where that is the same.

    The stride of an axis of extent 1 does not matter; one spelling of it keeps equal kernels equal.
    """
    packed = row_major(tuple(shape[axis] for axis in order))
    strides = [0] * len(shape)
    for axis, stride in zip(order, packed, strict=True):
        strides[axis] = stride
    return normal_strides(shape, tuple(strides))


def packed_strides(shape: tuple[int, ...], order: Order) -> tuple[int, ...]:
    """Strides of packed weights: as `strides_of`, with gaps behind rows of multiples of 1 KB.

    A tile reads a few columns of all rows. So far apart they would share few sets of the caches and
    push each other out.
    """
    dense = strides_of(shape, order)
    long = [axis for axis in order if shape[axis] != 1]
    row = shape[long[-1]] if long else 1
    if row % SPACED_ROW:
        return dense
    spaced = (s if axis == long[-1] else s // row * (row + GAP) for axis, s in enumerate(dense))
    return normal_strides(shape, tuple(spaced))


def normal_strides(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...]:
    """The same places, with the strides of axes of extent 1 as row-major order would have them."""
    plain = row_major(shape)
    if all(e == 1 or s == p for e, s, p in zip(shape, strides, plain, strict=True)):
        return plain
    result = list(strides)
    inner = 1
    for axis in range(len(shape) - 1, -1, -1):
        if shape[axis] == 1:
            result[axis] = inner
        else:
            inner = strides[axis] * shape[axis]
    return tuple(result)


def lies_in_order(shape: tuple[int, ...], strides: tuple[int, ...], order: Order) -> bool:
    """Whether the axes that matter lie in that order, outermost first, gaps allowed."""
    steps = [(strides[axis], shape[axis]) for axis in order if shape[axis] != 1]
    return all(outer >= inner * extent for (outer, _), (inner, extent) in pairwise(steps)) and (
        not steps or steps[-1][0] == 1
    )


def reshaped(
    shape: tuple[int, ...], strides: tuple[int, ...], wanted: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Strides that show an array in another shape, its row-major order kept; None if none do."""
    if 0 in shape:
        return row_major(wanted)
    # Runs of axes that are dense among themselves can be cut anew; (extent, stride of the last).
    runs: list[tuple[int, int]] = []
    for extent, stride in zip(shape, strides, strict=True):
        if extent == 1:
            continue
        if runs and runs[-1][1] == extent * stride:
            runs[-1] = (runs[-1][0] * extent, stride)
        else:
            runs.append((extent, stride))
    result: list[int] = []
    left = 1  # how much of the run at hand is still to be covered
    reach = 0
    for extent in wanted:
        if extent == 1:
            result.append(0)
            continue
        if left == 1:
            left, stride = runs.pop(0)
            reach = left * stride
        if left % extent:
            return None
        left //= extent
        reach //= extent
        result.append(reach)
    return normal_strides(wanted, tuple(result))


# -- what a kernel says about its operands ---------------------------------------------------------


@dataclass(frozen=True)
class Access:
    """Which loops index each axis of one operand.

    across: windows move over its channels, from each to the next.
    """

    argument: int
    loops: tuple[frozenset[Axis], ...]
    across: bool = False

    @property
    def is_window(self) -> bool:
        """Whether a position and a place in the window index a spatial axis, or the channels'."""
        return self.across or any(len(loops) > 1 for loops in self.loops[2:])


@lru_cache(KERNELS_REMEMBERED)
def accesses(kernel: Kernel) -> tuple[Access, ...]:
    """The loads and stores of a kernel, as far as loops are concerned."""
    position = {buffer: place for place, buffer in enumerate(kernel.buffers)}
    known: dict[Local, frozenset[Axis]] = {}

    def loops(expr: Expr) -> frozenset[Axis]:
        found: set[Axis] = set()
        for part in walk(expr):
            if isinstance(part, Var):
                found.add(part.axis)
            elif isinstance(part, Local):
                found |= known.get(part, frozenset())
        return frozenset(found)

    result: list[Access] = []
    for statement in kernel.body:
        for top in statement_exprs(statement):
            for part in walk(top):
                if isinstance(part, Load):
                    indices = tuple(loops(index) for index in part.index)
                    result.append(Access(position[part.buffer], indices, _moves_across(part)))
        if isinstance(statement, Let):
            known[statement.local] = loops(statement.value)
        elif isinstance(statement, Fold):
            for local, value in zip(statement.locals, statement.values, strict=True):
                known[local] = loops(value) - set(statement.axes)
        elif isinstance(statement, Store):
            indices = tuple(loops(index) for index in statement.index)
            result.append(Access(position[statement.buffer], indices))
    return tuple(dict.fromkeys(result))


def _moves_across(load: Load) -> bool:
    """Whether the channel read is one loop's and a few others': neighbours in a window."""
    form = affine(load.index[1]) if len(load.index) > 1 else None
    return form is not None and sum(abs(step) == 1 for _, step in form.terms) > 1


def _images(node: Node, found: Sequence[Access]) -> tuple[set[int], bool]:
    """Arguments that hold a batch of images, and whether one of them is read through a window."""
    values = (*node.inputs, *node.outputs)
    big = [a for a in found if values[a.argument].type.rank >= 3]
    windows = [a for a in big if a.is_window]
    leaders = windows or [a for a in big if a.argument >= len(node.inputs)]
    if not leaders:  # a sum over several images: they are read side by side
        leaders = [a for a in big if any(_are_alike(a, b, values) for b in big)]
    if not leaders:
        return set(), False
    batch = leaders[0].loops[0]
    rank = values[leaders[0].argument].type.rank
    same = {a.argument for a in big if a.loops[0] == batch or a.is_window}
    return {argument for argument in same if values[argument].type.rank == rank}, bool(windows)


def _are_alike(one: Access, other: Access, values: Sequence[Value]) -> bool:
    """Whether two arguments of one shape are read element by element, by the same loops."""
    if one.argument == other.argument or one.loops != other.loops:
        return False
    return values[one.argument].shape == values[other.argument].shape


def _packing(kernel: Kernel, found: Sequence[Access], argument: int) -> Order | None:
    """The order in which a windowed contraction wants its weights: folded axes, then the vector's.

    Of the folded axes those of the window come first and the channels last, beside the vector.
    A vector of a few elements would leave most lanes empty: then the lanes are the folded channels.
    """
    own = next((a for a in found if a.argument == argument), None)
    if own is None:
        return None
    each = set(kernel.each)
    axes = range(len(own.loops))
    vector = [axis for axis in axes if own.loops[axis] and own.loops[axis] <= each]
    if not vector:
        return None
    folded = [axis for axis in axes if axis not in vector]
    window, channels = [a for a in folded if a >= 2], [a for a in folded if a < 2]
    shape = kernel.buffers[argument].shape
    width = math.prod(shape[axis] for axis in vector)
    grouped = any(own.loops[axis] & each for axis in channels)
    if width <= FEW and not grouped and math.prod(shape[a] for a in channels) > 2 * width:
        return (*window, *vector, *channels)
    return (*window, *channels, *vector)


# -- regions ---------------------------------------------------------------------------------------


@dataclass(eq=False)
class Layouts:
    """What `choose_layouts` decided.

    `images` holds the channels-last values; `wanted` the order in which a node would like to find
    an input, by (node, input position), where that is not simply as it lies.
    """

    images: set[Value] = field(default_factory=set)
    wanted: dict[tuple[Node, int], Order] = field(default_factory=dict)

    def order(self, value: Value) -> Order:
        """The order of a value's axes where it is made."""
        rank = value.type.rank
        return channels_last(rank) if value in self.images else tuple(range(rank))


class _Regions:
    """Union-find over values."""

    def __init__(self) -> None:
        self.parent: dict[Value, Value] = {}

    def find(self, value: Value) -> Value:
        parent = self.parent.setdefault(value, value)
        while parent is not value:
            value, parent = parent, self.parent[parent]
        return value

    def unite(self, values: Iterable[Value]) -> None:
        roots = [self.find(value) for value in values]
        for root in roots[1:]:
            self.parent[self.find(root)] = self.find(roots[0])


def choose_layouts(nodes: list[Node], kernel_for: Callable[[Node], Kernel]) -> Layouts:
    """Decide the layouts of all values that `nodes` touch; `kernel_for` gives row-major kernels."""
    layouts = Layouts()
    regions = _Regions()
    seeds: list[Value] = []
    members: dict[Node, set[int]] = {}
    weights: dict[tuple[Node, int], Order] = {}
    for node in nodes:
        values = (*node.inputs, *node.outputs)
        moves_axes = node.op.is_view or isinstance(node.op, Transpose)
        if moves_axes or all(value.type.rank < 3 for value in values):
            continue
        kernel = kernel_for(node)
        found = accesses(kernel)
        images, windowed = _images(node, found)
        members[node] = images
        regions.unite(values[argument] for argument in sorted(images))
        if not windowed:
            continue
        seeds.extend(values[argument] for argument in images)
        if match(kernel) is None:
            continue
        for position, value in enumerate(node.inputs):
            if position not in images and value.type.rank >= 3:
                order = _packing(kernel, found, position)
                if order is not None:
                    weights[node, position] = order
    roots = {regions.find(value) for value in seeds}
    for node, images in members.items():
        values = (*node.inputs, *node.outputs)
        for argument in images:
            if regions.find(values[argument]) not in roots:
                continue
            layouts.images.add(values[argument])
            if argument < len(node.inputs):
                layouts.wanted[node, argument] = channels_last(values[argument].type.rank)
    layouts.wanted.update(weights)
    return layouts
