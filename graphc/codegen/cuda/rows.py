"""The statements of a kernel, run by a block together: threads share each statement's own loops."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from graphc.codegen.cuda.body import ARG_FOLDS, Body, empty, fold_bounds
from graphc.codegen.cuda.expressions import TYPES, c_type, counter
from graphc.codegen.cuda.kept_rows import KeptRow, kept_rows
from graphc.codegen.cuda.schedule import Schedule
from graphc.codegen.cuda.text import Names, Text
from graphc.codegen.nodes import (
    CheckNode,
    FoldNode,
    StatementNode,
    StoreNode,
)
from graphc.ir.types import DTYPES
from graphc.kernel.lang import Axis

_JOINS = {"sum": "Sum()", "prod": "Product()", "max": "Most()", "min": "Least()"}
_WARPS = 32  # the most that a block has
_PARTIAL_BYTES = _WARPS * 24  # for one item of each, of the largest kind


class RowBody(Body):
    """Writes statements for a block.

    Scalars are computed by every thread, so all know them. Between statements there is a barrier
    wherever one thread may read what another has written, or write what another has yet to read.
    """

    def __init__(
        self,
        text: Text,
        names: Names,
        made: Schedule,
        buffers: dict[str, str],
        alone: bool,
        aligned: frozenset[str] = frozenset(),
    ):
        super().__init__(text, names, made, buffers)
        self.shared_bytes = 0
        self._alone = alone
        self._kept = kept_rows(made, aligned, _PARTIAL_BYTES)
        self._places: dict[int, str] = {}  # of addresses in kept rows: the names of these
        self._written: set[str] = set()  # since the last barrier
        self._read: set[str] = set()

    def all(self) -> None:
        """The whole body, behind the copies of rows that are kept."""
        for row in self._kept:
            self._declare_row(row)
        if any(row.vector for row in self._kept):
            self.text.line("end_of_copies();")
            self.text.line("wait_for_copies<0>();")
            self.text.line("__syncthreads();")
        super().all()

    def _declare_row(self, row: KeptRow) -> None:
        """A kept row, and the copies to it where they come first."""
        line, address = self.text.line, row.addresses[0]
        name = self.names.fresh(f"{self.scalars.buffers[address.buffer.name]}_row")
        kind = TYPES[row.dtype]
        line(f"const Tile<{kind}> {name} = tile<{kind}>({row.byte}, {row.count});")
        self._places |= {id(address): name for address in row.addresses}
        self.shared_bytes = max(self.shared_bytes, row.byte + row.bytes)
        if not row.vector:
            return
        turn = self.names.fresh("r")
        count, scope = row.count // row.vector, dict(self.axes)
        head = f"for (int {turn} = threadIdx.x; {turn} < {count}; {turn} += blockDim.x)"
        with self.text.block(head):
            first = turn
            if row.vector > 1:
                first = self.names.fresh("at")
                line(f"const int {first} = {turn} * {row.vector};")
            self.decompose(first, row.axes)
            buffer, place = self.scalars.corner(address)
            line(f"copy_async<{row.vector}>({name}, {first}, {buffer}, {place}, true);")
        self.axes.clear()
        self.axes.update(scope)

    # -- barriers --

    def statement(self, statement: StatementNode) -> None:
        """Write one, behind a barrier where it meets what other threads have stored or read."""
        reads = {a.buffer.name for a in self.made.nodes.addresses(statement)}
        writes = set()
        if isinstance(statement, StoreNode):
            writes = {statement.address.buffer.name}
        if self._meet(self._written, reads | writes) or self._meet(self._read, writes):
            self.text.line("__syncthreads();")
            self._written, self._read = set(), set()
        super().statement(statement)
        if isinstance(statement, FoldNode) and self.made.own[statement]:
            self._read = set()  # nobody has the result before all have read
        else:
            self._read |= reads
        self._written |= writes

    def _meet(self, left: set[str], right: set[str]) -> bool:
        """Whether two sets of arguments may touch the same memory."""
        return bool(left & right) if self._alone else bool(left and right)

    # -- loops --

    @contextlib.contextmanager
    def shared_loop(self, axes: Sequence[Axis]) -> Iterator[str]:
        """One loop over all points, in row-major order, a thread taking every n-th."""
        count = self.made.nodes.size(list(axes))
        name = self.names.fresh("r")
        kind = counter(count + self.made.threads)
        head = f"for ({kind} {name} = threadIdx.x; {name} < {count}; {name} += blockDim.x)"
        with self.text.block(head):
            self.decompose(name, axes)
            self.scalars.lanes = {at: f"{row}[{name}]" for at, row in self._places.items()}
            yield name
            self.scalars.lanes = {}

    # -- statements --

    def check(self, check: CheckNode) -> None:
        with self.text.block("if (threadIdx.x == 0)"):
            super().check(check)

    def store(self, store: StoreNode) -> None:
        if not self.made.own[store]:
            with self.text.block("if (threadIdx.x == 0)"), self.guarded(store.guards):
                self.assign(store)
            return
        with self.shared_loop(self.made.own[store]), self.guarded(store.guards):
            self.assign(store)

    def fold(self, fold: FoldNode) -> None:
        if not self.made.own[fold]:
            super().fold(fold)  # every thread for itself
        elif fold.kind in ARG_FOLDS:
            self._first_best(fold)
        else:
            self.declare(fold)
            with self.shared_loop(self.made.own[fold]), self.guarded(fold.guards):
                self.update(fold)
            for place, (name, value) in enumerate(zip(fold.names, fold.values, strict=True)):
                kind = c_type(value.dtype)
                partial = self._room(kind, DTYPES[value.dtype])
                result = self.locals[name]
                rest = f"{empty(fold, place)}, {_JOINS[fold.kind]}, {partial}"
                self.text.line(f"{result} = join_block<{kind}>({result}, {rest});")

    def _first_best(self, fold: FoldNode) -> None:
        """The first in row-major order of the best: places decide between equals."""
        key, companion = (
            c_type(value.dtype, fold_bounds(fold, place)) for place, value in enumerate(fold.values)
        )
        kind, last = f"Found<{key}, {companion}>", "9223372036854775807LL"
        nothing, found = self.names.fresh("nothing"), self.names.fresh("found")
        self.text.line(f"const {kind} {nothing} = {{{empty(fold, 0)}, {last}, {empty(fold, 1)}}};")
        self.text.line(f"{kind} {found} = {nothing};")
        sign = ">" if fold.kind == "argmax" else "<"
        with self.shared_loop(self.made.own[fold]) as place, self.guarded(fold.guards):
            best = self.scalars.value(fold.values[0])
            with self.text.block(f"if ({best} {sign} {found}.key)"):
                other = self.scalars.value(fold.values[1])
                self.text.line(f"{found}.key = {best};")
                self.text.line(f"{found}.place = {place};")
                self.text.line(f"{found}.companion = {other};")
        partial = self._room(kind, 24)
        number = 1 if fold.kind == "argmax" else -1
        self.text.line(f"{found} = first_best_of_block<{number}>({found}, {nothing}, {partial});")
        for name, member, c_kind in zip(
            fold.names, ("key", "companion"), (key, companion), strict=True
        ):
            declared = self.locals[name] = self.names.fresh(name)
            self.text.line(f"const {c_kind} {declared} = {found}.{member};")

    def _room(self, kind: str, item_bytes: int) -> str:
        """Shared memory for one item of each warp; reductions use the same, one after another."""
        self.shared_bytes = max(self.shared_bytes, _WARPS * item_bytes)
        return f"tile<{kind}>(0, {_WARPS})"
