"""Loops and guards in SSA form, and a place for every value as far outside of them as it can be.

No pass of LLVM's runs over the text emitted here, so values that do not change inside a loop are
put before it at once. `scopes` is the stack of open loops and guards; a value that depends on
nothing inside scope n + 1 is emitted where that scope was entered and remembered in scope n.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from graphc.codegen.llvm import ir

INT1, INT32, INT64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)
VOID, POINTER = ir.VoidType(), ir.PointerType()
Count: TypeAlias = ir.Value | int
Carry: TypeAlias = list[ir.Value]
Made = TypeVar("Made")


def whole(value: Count) -> ir.Value:
    """An int64 value from a number or a value."""
    return ir.Constant(INT64, value) if isinstance(value, int) else value


class Scope:
    """An open loop or guard: where it was entered, and the values remembered inside.

    One iteration of a loop that is written out goes on in the block it finds: entered from nowhere.
    """

    __slots__ = ("entered_from", "memo")

    def __init__(self, entered_from: ir.Block | None):
        self.entered_from = entered_from
        self.memo: dict[Hashable, Any] = {}


class Frame:
    """One function under construction."""

    def __init__(self, builder: ir.IRBuilder):
        self.builder = builder
        self.scopes = [Scope(None)]

    @property
    def depth(self) -> int:
        """The innermost scope's number."""
        return len(self.scopes) - 1

    @contextlib.contextmanager
    def at(self, level: int) -> Iterator[None]:
        """Emit as the last of scope `level`, before the scope inside it."""
        if level == self.depth:
            yield
            return
        b, block = self.builder, self.builder.block
        inside = (scope.entered_from for scope in self.scopes[level + 1 :])
        place = next((entered for entered in inside if entered is not None), None)
        if place is None:  # only written out iterations lie between
            yield
            return
        b.position_at_end(place)
        yield
        b.position_at_end(block)

    def remembered(self, level: int, key: Hashable, make: Callable[[], Made]) -> Made:
        """The value of `key` in scope `level`, or several, made there at the first call."""
        memo = self.scopes[level].memo
        if key not in memo:
            with self.at(level):
                memo[key] = make()
        found: Made = memo[key]
        return found

    def forget(self, key: Hashable) -> None:
        """Drop a value that is no longer true."""
        for scope in self.scopes:
            scope.memo.pop(key, None)

    @contextlib.contextmanager
    def written_out(self) -> Iterator[None]:
        """The scope of one iteration of a loop that is no loop but its iterations in a row."""
        self.scopes.append(Scope(None))
        yield
        self.scopes.pop()

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """A scope that runs exactly once."""
        before = self.builder.block
        inside = self.builder.append_basic_block("part")
        self.builder.branch(inside)
        self.builder.position_at_end(inside)
        self.scopes.append(Scope(before))
        yield
        self.scopes.pop()

    def loop(
        self,
        start: Count,
        stop: Count,
        step: int,
        carry: Sequence[ir.Value],
        body: Callable[[ir.Value, Carry], Carry],
        running: bool = False,
    ) -> Carry:
        """carry = body(i, carry) for i in range(start, stop, step); the last carry.

        running: LLVM may let addresses run along with the counter, as for a tile's sums, where
        every instruction counts (see `_opaque`).
        """
        b, before = self.builder, self.builder.block
        known = isinstance(start, int) and isinstance(stop, int)
        if isinstance(start, int) and isinstance(stop, int) and start >= stop:
            return list(carry)
        inside, after = b.append_basic_block("loop"), b.append_basic_block("after")
        if known:
            b.branch(inside)
        else:
            b.cbranch(b.icmp_signed("<", whole(start), whole(stop)), inside, after)
        b.position_at_end(inside)
        i = b.phi(INT64)
        phis = [b.phi(value.type) for value in carry]
        self.scopes.append(Scope(before))
        new = body(i, list(phis))
        self.scopes.pop()
        following = b.add(i, whole(step))
        if not running:
            following = self._opaque(following)
        last = b.block
        b.cbranch(b.icmp_signed("<", following, whole(stop)), inside, after)
        b.position_at_end(after)
        pairs = zip([i, *phis], [whole(start), *carry], [following, *new], strict=True)
        for phi, first, value in pairs:
            phi.add_incoming(first, before)
            phi.add_incoming(value, last)
        return new if known else self._joined(carry, before, new, last)

    def _opaque(self, counter: ir.Value) -> ir.Value:
        """The counter, of which LLVM does not see any more how it follows from the last one.

        Its loop strength reduction would build all addresses anew that depend on the counter. That
        takes as long as everything else LLVM does, and most code is no faster: what does not change
        in a loop is before it already, and a sum of a base, an index and an offset costs nothing.
        """
        expect = self.builder.module.declared("llvm.expect.i64", INT64, [INT64, INT64])
        return self.builder.call(expect, [counter, whole(0)])

    def guard(
        self, condition: ir.Value, carry: Sequence[ir.Value], body: Callable[[Carry], Carry]
    ) -> Carry:
        """carry = body(carry) if condition."""
        b, before = self.builder, self.builder.block
        inside, after = b.append_basic_block("guarded"), b.append_basic_block("after")
        b.cbranch(condition, inside, after)
        b.position_at_end(inside)
        self.scopes.append(Scope(before))
        new = body(list(carry))
        self.scopes.pop()
        last = b.block
        b.branch(after)
        b.position_at_end(after)
        return self._joined(carry, before, new, last)

    def _joined(
        self, old: Sequence[ir.Value], before: ir.Block, new: Carry, last: ir.Block
    ) -> Carry:
        joined: Carry = []
        for first, value in zip(old, new, strict=True):
            phi = self.builder.phi(value.type)
            phi.add_incoming(first, before)
            phi.add_incoming(value, last)
            joined.append(phi)
        return joined

    def lane_loop(
        self,
        start: Count,
        stop: Count,
        lanes: int,
        carry: Sequence[ir.Value],
        body: Callable[[ir.Value, Count | None, Carry], Carry],
        parts: PartialSums | None = None,
    ) -> Carry:
        """carry = body(i, rest, carry) for groups of lanes.

        rest: the number of lanes in a last, partial group, else None. parts: see `chunked`.
        """
        b = self.builder
        if isinstance(start, int) and isinstance(stop, int):
            main: Count = start + max(stop - start, 0) // lanes * lanes
        else:
            length = b.sub(whole(stop), whole(start))
            main = b.add(whole(start), b.and_(length, whole(-lanes)))

        def last(rest: Count, c: Carry) -> Carry:
            if parts is None:
                return body(whole(main), rest, c)
            return parts.added(b, c, body(whole(main), rest, parts.zeros(c)))

        full = self.chunked(start, main, lanes, carry, lambda i, c: body(i, None, c), parts)
        if isinstance(main, int) and isinstance(stop, int):
            if main >= stop:
                return full
            with self.scope():
                return last(stop - main, full)
        rest = b.sub(whole(stop), whole(main))
        some = b.icmp_signed(">", rest, whole(0))
        return self.guard(some, full, lambda c: last(rest, c))

    def chunked(
        self,
        start: Count,
        stop: Count,
        step: int,
        carry: Sequence[ir.Value],
        body: Callable[[ir.Value, Carry], Carry],
        parts: PartialSums | None = None,
    ) -> Carry:
        """A loop that adds to `carry` what `body` adds up in parts of some iterations each.

        Without `parts` it is a plain loop.
        """
        if parts is None:
            return self.loop(start, stop, step, carry, body)
        b, reach = self.builder, parts.length * step
        if isinstance(start, int) and isinstance(stop, int) and stop - start <= reach:
            if start >= stop:
                return list(carry)
            return parts.added(b, carry, self.loop(start, stop, step, parts.zeros(carry), body))

        def one(first: ir.Value, sums: Carry) -> Carry:
            end = b.add(first, whole(reach))
            end = b.select(b.icmp_signed("<", end, whole(stop)), end, whole(stop))
            return parts.added(b, sums, self.loop(first, end, step, parts.zeros(sums), body))

        return self.loop(start, stop, reach, carry, one)


@dataclass(frozen=True)
class PartialSums:
    """A long float sum is made of parts: its error grows with the additions one after another.

    length: iterations of a part. elements: of what each is added up in, where what the parts are
    added to is wider.
    """

    length: int
    elements: tuple[ir.Type, ...] = ()

    def zeros(self, sums: Sequence[ir.Value]) -> Carry:
        """Where the sums of a part begin."""
        types = [value.type for value in sums]
        if self.elements:
            types = [
                ir.VectorType(element, wide.count) if isinstance(wide, ir.VectorType) else element
                for element, wide in zip(self.elements, types, strict=True)
            ]
        return [ir.Constant(type_, None) for type_ in types]

    def added(self, builder: ir.IRBuilder, sums: Sequence[ir.Value], part: Carry) -> Carry:
        """The sums with those of a part."""
        return [
            builder.fadd(
                total, some if some.type == total.type else builder.fpext(some, total.type)
            )
            for total, some in zip(sums, part, strict=True)
        ]
