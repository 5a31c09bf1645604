"""Squares of registers transposed by shuffles, and what uses them: loads of rows of neighbours."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING

from graphc.codegen.llvm import ir
from graphc.codegen.llvm.lanes import CACHE_LINE, SUFFIXES, TYPES
from graphc.codegen.llvm.loops import INT1, INT32, whole
from graphc.codegen.nodes import Address, Node
from graphc.ir.types import DTYPES
from graphc.kernel.lang import Axis

if TYPE_CHECKING:
    from graphc.codegen.llvm.vector import Values

# So many loads side by side are worth a square: fewer gathers take less time.
FEWEST_NEIGHBOURS = 4
RUNS_AHEAD = 8


def transposed(builder: ir.IRBuilder, rows: Sequence[ir.Value]) -> list[ir.Value]:
    """As many vectors as each has lanes, a power of two: off-diagonal blocks of 1, 2, 4 swapped."""
    lines, size, distance = list(rows), len(rows), 1
    lanes = range(size)
    type_ = ir.VectorType(INT32, size)
    while distance < size:
        upper = [j if not j & distance else size + j - distance for j in lanes]
        lower = [j + distance if not j & distance else size + j for j in lanes]
        orders = [ir.Constant(type_, order) for order in (upper, lower)]
        new = list(lines)
        for i in lanes:
            if not i & distance:
                pair = lines[i], lines[i + distance]
                new[i] = builder.shuffle_vector(*pair, orders[0])
                new[i + distance] = builder.shuffle_vector(*pair, orders[1])
        lines, distance = new, 2 * distance
    return lines


def joined(builder: ir.IRBuilder, parts: Sequence[ir.Value]) -> ir.Value:
    """Vectors of one length end to end; a power of two of them."""
    found = list(parts)
    while len(found) > 1:
        lanes = found[0].type.count
        order = ir.Constant(ir.VectorType(INT32, 2 * lanes), list(range(2 * lanes)))
        pairs = zip(found[::2], found[1::2], strict=True)
        found = [builder.shuffle_vector(*pair, order) for pair in pairs]
    return found[0]


class Neighbours:
    """Loads whose elements lie side by side, each lane's in a run of its own.

    Filters of 3x3 taps read along their outputs are so: nine loads, each a gather, though all nine
    are one run of memory in every lane. Runs are loaded whole and the square is transposed.
    `loops` are those around the lanes, outermost first.
    """

    def __init__(self, nodes: Iterable[Node], written: frozenset[str], loops: Sequence[Axis]):
        self.loops = loops
        places: dict[tuple[object, ...], list[tuple[Address, Node]]] = {}
        for node in nodes:
            address = node.address
            if address is None or address.parts or not address.inside:
                continue
            if address.buffer.name in written or DTYPES[address.buffer.dtype] != 4:
                continue
            terms = sorted((axis.name, step) for axis, step in address.terms.items())
            places.setdefault((address.buffer.name, *terms), []).append((address, node))
        self._groups: dict[Node, list[tuple[Address, Node]]] = {}
        for found in places.values():
            found.sort(key=lambda pair: pair[0].constant)
            for _, node in found:
                self._groups[node] = found

    def of(self, node: Node, axis: Axis) -> list[tuple[int, Node]]:
        """(distance from the first, load) of all that lie in the run of `node`; or nothing.

        Those of one step along `axis`, so that runs of different lanes do not overlap.
        """
        found, address = self._groups.get(node, []), node.address
        if address is None or len(found) < FEWEST_NEIGHBOURS:
            return []
        step, first = abs(address.terms.get(axis, 0)), found[0][0].constant
        run = [(other.constant - first, load) for other, load in found]
        return run if step > 1 and run[-1][0] < step and run[-1][0] < 4 * len(run) else []

    def ahead(self, run: Sequence[tuple[int, Node]], axis: Axis, lanes: int) -> Iterable[int]:
        """What to fetch, as distances from the first lane's run.

        Where lanes read on without gaps, processors foresee all but the leap to where the loop
        around them reads next. Where that loop reads on in each lane, they lose sight of so many.
        """
        address, length = run[0][1].address, run[-1][0] + 1
        assert address is not None
        step = address.terms[axis]
        leap = address.terms.get(self.loops[-1], 0) if self.loops else 0
        if leap == length:
            return range(RUNS_AHEAD * length, RUNS_AHEAD * length + lanes * step, step)
        if length == abs(step) and abs(leap) > axis.extent * length:
            line = CACHE_LINE // DTYPES[address.buffer.dtype]
            return range(leap, leap + lanes * length, line)
        return ()


def load_run(
    values: Values, run: Sequence[tuple[int, Node]], axis: Axis
) -> dict[Hashable, ir.Value]:
    """All loads of a run at once: each lane's elements in whole registers, transposed."""
    first = run[0][1].address
    assert first is not None
    b, dtype = values.builder, first.buffer.dtype
    size = min(values.lanes, values.math.target.lanes(dtype))
    start, step, length = values.affine_place(first), first.terms[axis], run[-1][0] + 1
    assert values.neighbours is not None
    for distance in values.neighbours.ahead(run, axis, values.lanes):
        values.fetch(b.gep(start, [whole(distance)], source_etype=TYPES[dtype]))
    columns: list[list[ir.Value]] = [[] for _ in range(length)]
    for lane in range(0, values.lanes, size):
        for column in range(0, length, size):
            some = min(size, length - column)
            rows = []
            for row in range(lane, lane + size):
                offset = whole(row * step + column)
                place = b.gep(start, [offset], source_etype=TYPES[dtype])
                rows.append(_first_elements(values, place, dtype, size, some))
            for number, value in enumerate(transposed(b, rows)[:some]):
                columns[column + number].append(value)
    return {load: joined(b, columns[distance]) for distance, load in run}


def _first_elements(values: Values, place: ir.Value, dtype: str, lanes: int, some: int) -> ir.Value:
    """The first `some` elements of a register, the others 0 and not touched."""
    type_, align = ir.VectorType(TYPES[dtype], lanes), DTYPES[dtype]
    if some == lanes:
        return values.builder.load(place, typ=type_, align=align)
    mask = ir.Constant(ir.VectorType(INT1, lanes), [int(lane < some) for lane in range(lanes)])
    name = f"llvm.masked.load.v{lanes}{SUFFIXES[dtype]}.p0"
    nothing = values.math.constant(0, type_)
    return values.math.intrinsic(name, type_, place, ir.Constant(INT32, align), mask, nothing)
