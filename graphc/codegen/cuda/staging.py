"""A slice of an operand on its way to shared memory, copied asynchronously.

Two ways to lie there, by what runs fastest in the operand: `[side][k]` where it is the sum's
loops, `[k][side]` where it is the tile's own side. Neighbouring threads copy what lies near in
memory: four elements at once where they are surely together and aligned, one where they may not be.
What lies outside of the operand (padding, an inexact quotient, past the last row) is copied as
zeros.

The half of an index that does not change along the sum is computed once, before its loop.

    const int left_line = row + threadIdx.x / 8;            // once
    const auto copy_left = [&](int slot, int first) {       // each turn
      const int term = first + threadIdx.x % 8 * 4;
      copy_async<4>(left, slot * 4608 + ..., x, left_at[0] + term, left_in[0] && term < 200);
    };
"""

from __future__ import annotations

from dataclasses import dataclass

from graphc.codegen.cuda.body import Body
from graphc.codegen.cuda.expressions import counter
from graphc.codegen.cuda.matrices import nearness, reach, size
from graphc.codegen.cuda.text import Text
from graphc.ir.types import DTYPES
from graphc.kernel.contraction import Operand, Position
from graphc.kernel.lang import Axis

_VECTOR = 4  # elements of a copy of 16 bytes


@dataclass(frozen=True)
class Layout:
    """Where element (side, k) of a slice lies: at side * side_step + k * k_step, of `count`."""

    sums_are_near: bool
    side_step: int
    k_step: int
    count: int
    vector: int  # elements copied at once

    def place(self, side: str, k: str) -> str:
        """The element's index, as C++."""
        return f"{_times(side, self.side_step)} + {_times(k, self.k_step)}"


def layout(
    operand: Operand,
    side: tuple[Axis, ...],
    over: tuple[Axis, ...],
    length: int,
    step: int,
    aligned: bool,
    odd_rows: bool,
) -> Layout:
    """How a slice of `length` x `step` elements lies.

    aligned: every buffer this operand may be begins at a multiple of 16 bytes. odd_rows: threads
    read along the side, so rows of k are an odd number apart; otherwise as tensor cores read them,
    eight of the side by four of k, which 4 words more a row keep in different banks.
    """
    sums_are_near = nearness(operand, over) <= nearness(operand, side)
    together = aligned and _comes_in_fours(operand, over if sums_are_near else side)
    if sums_are_near:
        pad = 1 if odd_rows else 4
        vector = _VECTOR if together and not odd_rows else 1
        return Layout(True, step + pad, 1, length * (step + pad), vector)
    return Layout(False, 1, length + 8, step * (length + 8), _VECTOR if together else 1)


def _comes_in_fours(operand: Operand, near: tuple[Axis, ...]) -> bool:
    """Whether float32 elements along the nearest axis can be copied four at a time."""
    if not near or DTYPES[operand.buffer.dtype] != 4:
        return False
    last = near[-1]
    if last.extent % _VECTOR:
        return False
    for position, stride in zip(operand.index, operand.buffer.strides, strict=True):
        moves = position.affine.coefficient(last)
        if moves:
            if position.guarded or moves * stride != 1:
                return False
            others = [f * stride for axis, f in position.affine.terms if axis != last]
            if any(step % _VECTOR for step in (*others, position.affine.constant * stride)):
                return False
        elif stride % _VECTOR and (position.affine.terms or position.affine.constant):
            return False
    return True


class Staging:
    """Writes the copies of one operand."""

    def __init__(
        self,
        text: Text,
        body: Body,
        name: str,
        operand: Operand,
        side: tuple[Axis, ...],
        over: tuple[Axis, ...],
        start: str,
        length: int,
        step: int,
        threads: int,
        placed: Layout,
        buffer: str,
    ):
        self.text, self.body, self.name, self.operand = text, body, name, operand
        self.side, self.over, self.start = side, over, start
        self.length, self.step, self.threads, self.layout = length, step, threads, placed
        self.buffer = buffer
        near = step if placed.sums_are_near else length
        self.far_length = length if placed.sums_are_near else step
        self.near_groups = near // placed.vector
        groups = self.near_groups * self.far_length
        assert threads % self.near_groups == 0
        self.far_threads = threads // self.near_groups
        self.parts = -(-groups // threads)
        self.some_idle = groups < threads
        self.kind = counter(reach(operand))
        self.guarded = [n for n, p in enumerate(operand.index) if p.guarded]

    # The side's half of an index has a value for each part where sums are near, else one.

    def _near(self) -> str:
        vector = "" if self.layout.vector == 1 else f" * {self.layout.vector}"
        return f"threadIdx.x % {self.near_groups}{vector}"

    def _far(self, part: str) -> str:
        return f"threadIdx.x / {self.near_groups} + {part} * {self.far_threads}"

    def before(self) -> None:
        """What stays the same along the sum."""
        line, name = self.text.line, self.name
        scope = dict(self.body.axes)
        many = self.layout.sums_are_near
        bracket = f"[{self.parts}]" if many else ""
        line(f"{self.kind} {name}_at{bracket};")
        for number in self.guarded:
            line(f"int {name}_index{number}{bracket};")
        if self._side_is_checked():
            line(f"bool {name}_in{bracket};")
        if many:
            line("#pragma unroll")
        head = f"for (int part = 0; part < {self.parts}; ++part)" if many else ""
        with self.text.block(head):
            item = "[part]" if many else ""
            here = self._far("part") if many else self._near()
            line(f"const int line = {self.start} + {here};")
            self.body.decompose("line", self.side)
            skipped = frozenset(self.over)
            line(f"{name}_at{item} = {self._offset(skipped, constant=True)};")
            for number in self.guarded:
                index = self._index(self.operand.index[number], skipped, constant=True)
                line(f"{name}_index{number}{item} = {index};")
            if self._side_is_checked():
                line(f"{name}_in{item} = line < {size(self.side)};")
        self._restore(scope)

    def _side_is_checked(self) -> bool:
        return size(self.side) % self.length != 0

    def copies(self) -> None:
        """The lambda `copy_NAME(slot, first)`: the slice whose first term is `first`."""
        line, name = self.text.line, self.name
        scope = dict(self.body.axes)
        near = self.layout.sums_are_near
        self.text.line(f"const auto copy_{name} = [&](int slot, int first) {{")
        with self.text.indented():
            if near:
                line(f"const int k = {self._near()};")
                self._term()
            if self.parts > 1:
                line("#pragma unroll")
            with self.text.block(f"for (int part = 0; part < {self.parts}; ++part)"):
                line(f"const int {'i' if near else 'k'} = {self._far('part')};")
                if not near:
                    line(f"const int i = {self._near()};")
                    self._term()
                self._copy("[part]" if near else "")
        line("};")
        self._restore(scope)

    def _term(self) -> None:
        """The sum's half of an index."""
        line = self.text.line
        line("const int term = first + k;")
        self.body.decompose("term", self.over)
        others = frozenset(
            axis
            for position in self.operand.index
            for axis, _ in position.affine.terms
            if axis not in self.over
        )
        line(f"const {self.kind} along = {self._offset(others, constant=False)};")
        for number in self.guarded:
            index = self._index(self.operand.index[number], others, constant=False)
            line(f"const int along{number} = {index};")

    def _copy(self, item: str) -> None:
        line, name = self.text.line, self.name
        conditions, place = [], f"{name}_at{item} + along"
        for number in self.guarded:
            position = self.operand.index[number]
            extent = self.operand.buffer.shape[number]
            stride = self.operand.buffer.strides[number]
            index = f"index{number}"
            line(f"const int {index} = {name}_index{number}{item} + along{number};")
            conditions.append(f"{index} >= 0")
            if position.divisor > 1:
                conditions.append(f"{index} % {position.divisor} == 0")
                index = f"{index} / {position.divisor}"
            conditions.append(f"{index} < {extent}")
            wide = "(long long)" if self.kind == "long long" else ""
            index = f"{wide}({index})" if "/" in index or wide else index
            place += f" + {index}" if stride == 1 else f" + {index} * {stride}"
        if self._side_is_checked():
            conditions.append(f"{name}_in{item}")
        if size(self.over) % self.step:
            conditions.append(f"term < {size(self.over)}")
        if self.some_idle:
            bound, limit = ("i", self.length) if self.layout.sums_are_near else ("k", self.step)
            line(f"if ({bound} >= {limit}) break;")
        inside = " && ".join(conditions) or "true"
        to = f"slot * {self.layout.count} + {self.layout.place('i', 'k')}"
        line(f"const bool inside = {inside};")
        line(f"copy_async<{self.layout.vector}>({name}, {to}, {self.buffer}, {place}, inside);")

    # -- halves of indices --

    def _offset(self, skipped: frozenset[Axis], constant: bool) -> str:
        """Elements by the indices that need no guard, without the axes of the other half."""
        terms: dict[Axis, int] = {}
        total = 0
        for position, stride in zip(self.operand.index, self.operand.buffer.strides, strict=True):
            if position.guarded:
                continue
            total += position.affine.constant * stride
            for axis, factor in position.affine.terms:
                if axis not in skipped:
                    terms[axis] = terms.get(axis, 0) + factor * stride
        wide = "(long long)" if self.kind == "long long" else ""
        parts = [
            f"{wide}{self.body.axes[axis]}" + ("" if step == 1 else f" * {step}")
            for axis, step in terms.items()
            if axis in self.body.axes and step
        ]
        return _sum(parts, total if constant else 0)

    def _index(self, position: Position, skipped: frozenset[Axis], constant: bool) -> str:
        parts = [
            self.body.axes[axis] + ("" if factor == 1 else f" * {factor}")
            for axis, factor in position.affine.terms
            if axis not in skipped and axis in self.body.axes
        ]
        return _sum(parts, position.affine.constant if constant else 0)

    def _restore(self, scope: dict[Axis, str]) -> None:
        self.body.axes.clear()
        self.body.axes.update(scope)


def _times(index: str, step: int) -> str:
    if step == 1:
        return index
    return f"({index}) * {step}" if " " in index else f"{index} * {step}"


def _sum(parts: list[str], constant: int) -> str:
    if constant or not parts:
        parts = [*parts, str(constant)]
    return " + ".join(parts).replace("+ -", "- ")
