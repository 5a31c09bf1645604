"""What remarks call the loops of a kernel: places of arrays that the user knows.

Kernels know their buffers by formal names and their loops by flat steps; some loops are two of the
kernel's in one. A step of an array says which of its axes a loop runs along.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from graphc.codegen.llvm.product import Factor, Product
from graphc.codegen.llvm.said import many, ordinal
from graphc.codegen.nodes import Address, KernelNodes, StoreNode
from graphc.kernel.lang import Axis, Buffer

Place = tuple[Buffer, Mapping[Axis, int]]


@dataclass(frozen=True)
class Names:
    """Formal name -> the array's. turned: the user's shapes are these from last to first.

    called: what the user calls an array.
    """

    arrays: Mapping[str, str]
    turned: bool = False
    called: Callable[[str], str] = str

    def plain(self, name: str) -> str:
        """What the user calls the array of that formal name."""
        return self.called(self.arrays.get(name, name))

    def array(self, buffer: Buffer) -> str:
        """`'conv1'`."""
        return f"'{self.plain(buffer.name)}'"

    def along(self, buffer: Buffer, step: int, extent: int) -> str:
        """`axis 1 of 'conv1'`, for a loop that moves so many elements of it; empty for none."""
        found = dimensions(buffer, abs(step), extent)
        if not found:
            return ""
        rank = len(buffer.shape)
        numbers = sorted(rank - d for d in found) if self.turned else found
        kind = "dimension" if self.turned else ("axis" if len(found) == 1 else "axes")
        kind += "s" * (self.turned and len(found) > 1)
        apart = abs(step) // buffer.strides[found[-1]]
        every = f"every {ordinal(apart)} place along " if apart > 1 else ""
        return f"{every}{kind} {', '.join(map(str, numbers))} of {self.array(buffer)}"


def dimensions(buffer: Buffer, step: int, extent: int) -> list[int]:
    """The axes of an array that a loop runs through: several, where it is several in one."""
    there = [d for d, size in enumerate(buffer.shape) if size > 1 and 0 < buffer.strides[d] <= step]
    if not there:
        return []
    base = max(there, key=lambda d: buffer.strides[d])
    found = {base}
    for d, size in enumerate(buffer.shape):
        times, rest = divmod(buffer.strides[d], step)
        if size > 1 and rest == 0 and 1 < times < extent and extent % times == 0:
            found.add(d)
    # The last is the one whose neighbours the loop meets.
    return [*sorted(found - {base}), base]


class Loops:
    """The loops of a kernel by the arrays that they move through, best known first."""

    def __init__(self, names: Names, extents: Mapping[Axis, int], places: Iterable[Place]):
        self.names = names
        self.extents = extents
        self.places = list(places)

    def __call__(self, axis: Axis) -> str:
        """`axis 1 of 'conv1'`."""
        for buffer, terms in self.places:
            said = self.names.along(buffer, terms.get(axis, 0), self.extents.get(axis, 1))
            if said:
                return said
        return f"loop {axis.name}"

    def sized(self, axis: Axis) -> str:
        """`axis 1 of 'conv1', 96 places`."""
        return f"{self(axis)}, {many(self.extents.get(axis, 1), 'place')}"


def product_loops(product: Product, names: Names) -> Loops:
    """Those of a product: results before operands, of these the one whose loops are apart."""
    factors = sorted((product.left, product.right), key=lambda f: _shared(f, product.extents))
    stores = [(s.address.buffer, s.address.terms) for s in product.store_nodes()]
    return Loops(names, product.extents, [*stores, *((f.buffer, f.strides) for f in factors)])


def _shared(factor: Factor, extents: Mapping[Axis, int]) -> int:
    """How many axes of an operand two loops run along, as taps and pixels of an image do."""
    every = [d for x, s in factor.strides.items() for d in dimensions(factor.buffer, s, extents[x])]
    return len(every) - len(set(every))


def node_loops(nodes: KernelNodes, names: Names) -> Loops:
    """Those of any other kernel."""
    stores = [s.address for s in nodes.statements if isinstance(s, StoreNode)]
    loads = [a for s in nodes.statements for a in nodes.addresses(s)]
    return Loops(names, nodes.extents, map(_place, (*stores, *loads)))


def _place(address: Address) -> Place:
    return address.buffer, address.terms
