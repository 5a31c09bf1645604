"""Rows that a block goes through more than once, kept in shared memory.

A softmax loss with its gradient reads a row of scores for the largest, then for exponentials;
these it reads for their sum, and once more for the gradient. The scores are copied once, all copies
on their way at the same time; the exponentials take their place; memory sees only the gradient.

    for (int r = threadIdx.x; r < 250; r += blockDim.x) {
      copy_async<4>(x_row, r * 4, x, blockIdx.x * 1000 + r * 4, true);
    }

But for these copies a thread goes through the same elements of a row in every statement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from graphc.codegen.cuda.fours import FOUR, comes_together
from graphc.codegen.cuda.schedule import Schedule
from graphc.codegen.nodes import Address, StoreNode
from graphc.ir.types import DTYPES
from graphc.kernel.lang import Axis

LEAST_BYTES = 2048  # shorter rows stay in the nearest cache by themselves
MOST_BYTES = 100 << 10  # of all rows of a block: a multiprocessor has room for two such blocks
_COPIED = (4, 8)  # bytes of elements that can be copied asynchronously
_ALIGNMENT = 16


@dataclass(frozen=True)
class KeptRow:
    """A row of `count` elements at a byte of shared memory.

    Attributes:
        addresses: the loads and stores that are in it, in the order of the statements.
        axes: the loops that the first of them runs along, the nearest last.
        first, last: the statements that begin and end to need it.
        vector: elements copied at once before the first statement; 0: a statement stores them.
    """

    addresses: tuple[Address, ...]
    axes: tuple[Axis, ...]
    count: int
    first: int
    last: int
    vector: int
    byte: int = 0

    @property
    def dtype(self) -> str:
        """Of its elements."""
        return self.addresses[0].buffer.dtype

    @property
    def bytes(self) -> int:
        """Of shared memory."""
        return self.count * DTYPES[self.dtype]


@dataclass(frozen=True)
class _Use:
    """An address of a row, and the statement that it is in."""

    number: int
    address: Address
    is_store: bool


def kept_rows(made: Schedule, aligned: frozenset[str], first_byte: int) -> list[KeptRow]:
    """The rows of a block's iteration that are worth it, from a byte of shared memory on.

    aligned: buffers that begin at multiples of 16 bytes.
    """
    rows: list[KeptRow] = []
    end = first_byte
    found = [_copied(made, aligned, uses) for uses in _rows(made).values()]
    found += [_stored(made, name) for name in sorted(made.nodes.written)]
    for row in found:
        if row is None or row.bytes < LEAST_BYTES:
            continue
        place = next((old.byte for old in rows if _makes_room(old, row, rows)), None)
        if place is not None:
            rows.append(replace(row, byte=place))
        elif end + row.bytes <= MOST_BYTES:
            rows.append(replace(row, byte=end))
            end += -(-row.bytes // _ALIGNMENT) * _ALIGNMENT
    return rows


def _makes_room(old: KeptRow, row: KeptRow, rows: list[KeptRow]) -> bool:
    """Whether a row can take another one's place: each element that of the same thread."""
    is_alone = sum(other.byte == old.byte for other in rows) == 1
    alike = old.count == row.count and old.bytes == row.bytes
    return is_alone and alike and old.last <= row.first


def _rows(made: Schedule) -> dict[object, list[_Use]]:
    """The loads of inputs by the row that they are in."""
    found: dict[object, list[_Use]] = {}
    for number, statement in enumerate(made.nodes.statements):
        for address in made.nodes.addresses(statement):
            is_input = address.buffer.name not in made.nodes.written
            if made.own.get(statement) and is_input and _can_be_kept(address):
                key = _row(address, made.own[statement], made)
                found.setdefault(key, []).append(_Use(number, address, False))
    return found


def _copied(made: Schedule, aligned: frozenset[str], uses: list[_Use]) -> KeptRow | None:
    """A row of an input that several statements read."""
    if len({use.number for use in uses}) < 2:
        return None
    axes = made.own[made.nodes.statements[uses[0].number]]
    near, address = axes[-1], uses[0].address
    together = comes_together(address, near, aligned, FOUR)
    vector = FOUR if together and made.nodes.extents[near] % FOUR == 0 else 1
    return _kept(made, axes, uses, -1, vector)


def _stored(made: Schedule, name: str) -> KeptRow | None:
    """A row of an output that is stored more than once, read between: memory gets the last."""
    uses: list[_Use] = []
    for number, statement in enumerate(made.nodes.statements):
        uses += [
            _Use(number, address, isinstance(statement, StoreNode) and address is statement.address)
            for address in made.nodes.addresses(statement)
            if address.buffer.name == name
        ]
    statements = [made.nodes.statements[use.number] for use in uses]
    stores = [use for use in uses if use.is_store]
    whole = all(
        made.own.get(statement)
        and _can_be_kept(use.address)
        and not (isinstance(statement, StoreNode) and (statement.guards or statement.mode == "add"))
        for use, statement in zip(uses, statements, strict=True)
    )
    if not whole or len(stores) < 2 or uses[0] != stores[0] or uses[-1] != stores[-1]:
        return None
    axes = made.own[statements[0]]
    keys = {
        _row(use.address, made.own[statement], made)
        for use, statement in zip(uses, statements, strict=True)
    }
    return _kept(made, axes, uses[:-1], uses[0].number, 0) if len(keys) == 1 else None


def _kept(
    made: Schedule, axes: Sequence[Axis], uses: list[_Use], first: int, vector: int
) -> KeptRow:
    last = uses[-1].number
    addresses = tuple(use.address for use in uses)
    return KeptRow(addresses, tuple(axes), made.nodes.size(list(axes)), first, last, vector)


def _can_be_kept(address: Address) -> bool:
    """Whether it lies inside of its buffer wherever loops are, and can be copied."""
    return address.inside and not address.parts and DTYPES[address.buffer.dtype] in _COPIED


def _row(address: Address, own: Sequence[Axis], made: Schedule) -> object:
    """The same for addresses that go through the same elements in the same order."""
    across = frozenset((axis, step) for axis, step in address.terms.items() if axis not in own)
    along = tuple((made.nodes.extents[axis], address.terms.get(axis, 0)) for axis in own)
    return address.buffer.name, address.constant, across, along
