"""What a kernel reads and when, and so whether an output may lie where an input lies.

`may_overwrite` proves that a store reaches an element of the input only after everything that reads
it. It uses nothing but the rules of `graphc.kernel.lang`: iterations of `each` have no order,
statements inside one have, and the points of one store are evaluated and written in any grouping.
So the proof holds for every number of threads and every vector width.

A write at iteration e and a read at iteration e' are compared index by index. Where both indices
are the same affine form of the loops, equal elements mean that the difference of the iterations is
0 in that form; forms are combined until every loop's difference is known to be 0, or nothing is
left to learn. An index that depends on data says nothing: it counts as its whole axis.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from graphc.kernel.affine import Affine, affine, bounds
from graphc.kernel.contraction import KERNELS_REMEMBERED, match
from graphc.kernel.lang import Axis, Buffer, Expr, Fold, Kernel, Load, Statement, Store
from graphc.kernel.text import print_expr, print_statement
from graphc.kernel.verify import determines
from graphc.kernel.walk import statement_exprs, walk


@dataclass(frozen=True)
class Access:
    """One place in a kernel that reads or writes a buffer: a statement, its position, the index."""

    position: int
    statement: Statement
    index: tuple[Expr, ...]

    @property
    def own(self) -> tuple[Axis, ...]:
        """The loops of the statement itself."""
        if isinstance(self.statement, Fold | Store):
            return self.statement.axes
        return ()

    def element(self, buffer: Buffer) -> str:
        """`x[o, c, i]`."""
        return print_expr(Load(buffer, self.index))


def reads(kernel: Kernel, buffer: Buffer) -> list[Access]:
    """Every load of `buffer`, and every store that adds to it, in order."""
    return list(_reads(kernel, buffer))


def _reads(kernel: Kernel, buffer: Buffer) -> Iterator[Access]:
    for position, statement in enumerate(kernel.body):
        seen: set[tuple[Expr, ...]] = set()
        for expr in statement_exprs(statement):
            for part in walk(expr):
                if isinstance(part, Load) and part.buffer == buffer and part.index not in seen:
                    seen.add(part.index)
                    yield Access(position, statement, part.index)
        if isinstance(statement, Store) and statement.buffer == buffer and statement.mode == "add":
            yield Access(position, statement, statement.index)


def writes(kernel: Kernel, buffer: Buffer) -> list[Access]:
    """Every store to `buffer`, in order."""
    return [
        Access(position, statement, statement.index)
        for position, statement in enumerate(kernel.body)
        if isinstance(statement, Store) and statement.buffer == buffer
    ]


def is_elementwise(kernel: Kernel) -> bool:
    """Whether each iteration reads and writes one element, at the same place of equal shapes."""
    stores = [s for s in kernel.body if isinstance(s, Store)]
    if not stores or len(stores) < len(kernel.outputs):
        return False
    if any(isinstance(s, Fold) or getattr(s, "axes", ()) for s in kernel.body):
        return False
    place = stores[0].index
    if not determines([affine(i) for i in place], kernel.each):
        return False
    places = [access.index for b in kernel.buffers for access in reads(kernel, b)]
    places += [access.index for b in kernel.outputs for access in writes(kernel, b)]
    return all(p == place for p in places) and len({b.shape for b in kernel.buffers}) == 1


def needs_old(kernel: Kernel, output: Buffer) -> bool:
    """Whether what lay in `output` before the call matters: it is added to or read first."""
    before = reads(kernel, output)
    if not before:
        return False
    earlier = kernel.body[: before[0].position]
    return not any(isinstance(s, Store) and s.buffer == output and covers(s) for s in earlier)


def covers(store: Store) -> bool:
    """Whether a store sets every element of its buffer, a loop of its own for each index."""
    if store.where is not None or store.mode == "add":
        return False
    used: set[Axis] = set()
    for part, extent in zip(store.index, store.buffer.shape, strict=True):
        if extent == 1:
            continue
        form = affine(part)
        if form is None or form.constant != 0 or len(form.terms) != 1:
            return False
        axis, factor = form.terms[0]
        if factor != 1 or axis.extent != extent or axis in used:
            return False
        used.add(axis)
    return True


@lru_cache(16 * KERNELS_REMEMBERED)
def may_overwrite(kernel: Kernel, input_position: int, output_position: int) -> str | None:
    """None where the output may lie in the very bytes of the input, else a sentence why not.

    The two must then have one offset; dtype, shape and strides are compared here. Where one array
    is passed as several inputs, ask for each of them.
    """
    source, target = kernel.inputs[input_position], kernel.outputs[output_position]
    if kernel.winograd is not None and kernel.winograd.work == target.name:
        return f"{target.name} is memory to work in"
    if kernel.winograd is not None and kernel.winograd.filters == source.name:
        return "its filters are still read for other tiles"
    contraction = match(kernel)
    if contraction is not None:
        for operand in (contraction.left, contraction.right):
            if operand.buffer == source:
                return "the contraction still reads it for other tiles"
    mismatch = _mismatch(source, target)
    if mismatch:
        return mismatch
    if needs_old(kernel, target):
        return f"{target.name} is read before it is stored, so it has contents of its own"
    for write in writes(kernel, target):
        for read in reads(kernel, source):
            reason = _conflict(kernel, source, read, target, write)
            if reason:
                return reason
    return None


def _mismatch(source: Buffer, target: Buffer) -> str:
    for what in ("dtype", "shape", "strides"):
        old, new = getattr(source, what), getattr(target, what)
        if old != new:
            shown = [x if isinstance(x, str) else list(x) for x in (old, new)]
            return f"{source.name} and {target.name} differ in {what}: {shown[0]} and {shown[1]}"
    elements = zip(source.shape, source.strides, strict=True)
    steps = [(Axis(str(place), e), s) for place, (e, s) in enumerate(elements) if e > 1]
    whole = Affine(tuple(step for step in steps if step[1]), 0)
    if not determines([whole], [axis for axis, _ in steps]):
        return f"elements of {source.name} share memory"
    return ""


def _conflict(
    kernel: Kernel, source: Buffer, read: Access, target: Buffer, write: Access
) -> str | None:
    """Why `write` may come before `read` of the same element, or None where that cannot be."""
    loops = (*kernel.each, *read.own, *write.own)
    if any(axis.extent == 0 for axis in loops):
        return None
    same_statement = read.position == write.position
    known = _equal_loops(kernel, read, write, same_statement)
    if known is None:
        return None  # never the same element
    element, stored = read.element(source), write.element(target)
    unknown = [axis.name for axis in kernel.each if axis not in known]
    if unknown:
        return (
            f"'{print_statement(read.statement)}' reads {element}, which another iteration of"
            f" {', '.join(unknown)} may have overwritten by storing {stored}"
        )
    if read.position > write.position:
        return (
            f"'{print_statement(read.statement)}' reads {element} after"
            f" '{print_statement(write.statement)}' has stored {target.name}"
        )
    if same_statement and not known >= set(write.own):
        unknown = [axis.name for axis in write.own if axis not in known]
        return (
            f"'{print_statement(write.statement)}' reads {element}, which its own loop over"
            f" {', '.join(unknown)} may have overwritten"
        )
    return None


def _equal_loops(
    kernel: Kernel, read: Access, write: Access, same_statement: bool
) -> set[Axis] | None:
    """Loops whose variable must be equal in the read and the write of one element.

    None where the two never touch the same element. Own loops count only within one statement:
    elsewhere the two run by themselves, even where they share a name.
    """
    shared = set(kernel.each) | (set(write.own) if same_statement else set())
    known = {axis for axis in shared if axis.extent <= 1}
    pairs = [
        (a, b)
        for a, b in zip(map(affine, read.index), map(affine, write.index), strict=True)
        if a is not None and b is not None
    ]
    progress = True
    while progress:
        progress = False
        for a, b in pairs:
            difference = _difference(a, b, shared, known)
            low, high = bounds(difference)
            if low > 0 or high < 0:
                return None
            alike = all(
                axis in shared and a.coefficient(axis) == b.coefficient(axis)
                for axis in (*dict(a.terms), *dict(b.terms))
                if axis.extent > 1
            )
            fresh = [axis for axis, _ in a.terms if axis.extent > 1 and axis not in known]
            if alike and a.constant == b.constant and fresh:
                rest = Affine(tuple((x, a.coefficient(x)) for x in fresh), 0)
                if determines([rest], fresh):
                    known |= set(fresh)
                    progress = True
    return known


def _difference(a: Affine, b: Affine, shared: set[Axis], known: set[Axis]) -> Affine:
    """The read's index minus the write's, over variables that may all differ unless known equal.

    A known loop has one variable, any other one for the read and one for the write.
    """
    terms: list[tuple[Axis, int]] = []
    for axis in dict.fromkeys((*dict(a.terms), *dict(b.terms))):
        left, right = a.coefficient(axis), b.coefficient(axis)
        if axis in shared and axis in known:
            terms.append((axis, left - right))
        else:
            terms += [(Axis(f"{axis.name}'", axis.extent), left), (axis, -right)]
    return Affine(tuple(term for term in terms if term[1]), a.constant - b.constant)
