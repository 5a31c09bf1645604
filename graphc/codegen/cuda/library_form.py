"""What the forms of library calls have in common: places of elements, and what follows a sum."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from graphc.ir.types import row_major
from graphc.kernel.affine import affine
from graphc.kernel.contraction import Contraction, Operand
from graphc.kernel.lang import Axis, Buffer, Expr, Local
from graphc.runtime.library_call import Call


@dataclass(frozen=True)
class LibraryOperand:
    """A buffer that a call reads or writes from an element on.

    copied: the strides that it has to be copied to before, None where it is read as it lies.
    """

    buffer: Buffer
    first: int = 0
    copied: tuple[int, ...] | None = None


@dataclass(frozen=True)
class LibraryForm:
    """A contraction as a library's call.

    operands: what the call reads. sums: strides of an array of the first store's shape that the
    call writes; None where it writes what the kernel stores, and nothing follows. first: from which
    element on it writes there.
    """

    call: Call
    operands: tuple[LibraryOperand, ...]
    sums: tuple[int, ...] | None
    first: int = 0


@dataclass(frozen=True)
class Place:
    """Where an element lies: `constant` and `terms[axis]` for every turn of a loop, in elements."""

    terms: dict[Axis, int]
    constant: int

    def stride(self, axes: Sequence[Axis]) -> int | None:
        """The stride along loops, far to near, taken as one; None where they are not one."""
        if not axes:
            return 1
        for far, near in itertools.pairwise(axes):
            if self.terms.get(far, 0) != self.terms.get(near, 0) * near.extent:
                return None
        return self.terms.get(axes[-1], 0)


def place(buffer: Buffer, index: Sequence[Expr], strides: Sequence[int] | None = None) -> Place:
    """Of the element at an affine index; `strides` in place of the buffer's own."""
    terms: dict[Axis, int] = {}
    constant = 0
    for expr, stride in zip(index, strides or buffer.strides, strict=True):
        form = affine(expr)
        assert form is not None, "stores of contractions have affine indices"
        constant += form.constant * stride
        for axis, factor in form.terms:
            terms[axis] = terms.get(axis, 0) + factor * stride
    return Place(terms, constant)


def operand_place(operand: Operand) -> Place | None:
    """Of a factor; None where some of its loads are guarded or divided."""
    if any(position.divisor > 1 or position.guarded for position in operand.index):
        return None
    axes = {axis for position in operand.index for axis, _ in position.affine.terms}
    return Place({axis: operand.stride(axis) for axis in axes}, operand.constant)


def dense(shape: Sequence[int], strides: Sequence[int]) -> tuple[int, ...]:
    """Strides without gaps, the axes in the same order."""
    order = sorted(range(len(shape)), key=lambda axis: (-strides[axis], axis))
    packed = row_major(tuple(shape[axis] for axis in order))
    found = [0] * len(shape)
    for axis, stride in zip(order, packed, strict=True):
        found[axis] = stride
    return tuple(found)


def stores_sum(contraction: Contraction) -> bool:
    """Whether nothing follows the sum but one store of it."""
    (local,) = contraction.fold.locals
    return only_value(contraction) == local


def only_value(contraction: Contraction) -> Expr | None:
    """What the only store stores; None where there are several, or it adds."""
    if len(contraction.stores) != 1 or contraction.stores[0].mode != "set":
        return None
    return contraction.stores[0].value


def sum_of(contraction: Contraction) -> Local:
    """The local that holds the sum."""
    (local,) = contraction.fold.locals
    return local
