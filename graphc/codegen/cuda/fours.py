"""Elementwise kernels four elements a thread, float32 arrays read and written 16 bytes at once.

const int i = e * 4;
const Four x_4 = four(x, i);
Four y_4;
for (int lane = 0; lane < 4; ++lane) {
  const int i_2 = i + lane;
  y_4[lane] = most(x_4[lane], 0.0f);
}
put(y, i, y_4);
"""

from __future__ import annotations

from dataclasses import dataclass

from graphc.codegen.cuda.body import Body
from graphc.codegen.cuda.expressions import counter
from graphc.codegen.cuda.schedule import Schedule
from graphc.codegen.nodes import (
    Address,
    KernelNodes,
    LetNode,
    StoreNode,
    reachable,
    statement_nodes,
)
from graphc.kernel.lang import Axis

FOUR = 4


@dataclass(frozen=True)
class Fours:
    """The loop that is taken in fours, and the loads and stores that become one access."""

    axis: Axis
    loads: tuple[Address, ...]
    stores: tuple[Address, ...]


def fours(made: Schedule, aligned: frozenset[str]) -> Fours | None:
    """How a kernel is taken in fours, or None. `aligned`: buffers that begin at 16 bytes.

    Every store must become one access: what a lane stores, no lane may load.
    """
    nodes = made.nodes
    if made.form != "threads" or made.serial or not made.parallel:
        return None
    axis = made.parallel[-1]
    if nodes.extents[axis] % FOUR or not all(_is_plain(s, made) for s in nodes.statements):
        return None
    loads = _loads(nodes)
    stores = [s.address for s in nodes.statements if isinstance(s, StoreNode)]
    written = [address.buffer.name for address in stores]
    if not stores or len(set(written)) < len(written):
        return None
    if any(address.buffer.name in written for address in loads):
        return None
    if not all(comes_together(address, axis, aligned, FOUR) for address in stores):
        return None
    together = tuple(a for a in loads if a.inside and comes_together(a, axis, aligned, FOUR))
    return Fours(axis, together, tuple(stores))


def _is_plain(statement: object, made: Schedule) -> bool:
    if isinstance(statement, StoreNode):
        return not statement.guards and not made.own[statement] and statement.mode != "add"
    return isinstance(statement, LetNode)


def _loads(nodes: KernelNodes) -> list[Address]:
    every = (n.address for s in nodes.statements for n in reachable(statement_nodes(s)))
    return [address for address in every if address is not None]


def comes_together(address: Address, axis: Axis, aligned: frozenset[str], count: int) -> bool:
    """Whether `count` float32 neighbours along an axis are one access, from multiples of it on."""
    if address.buffer.dtype != "float32" or address.buffer.name not in aligned or address.parts:
        return False
    others = [stride for other, stride in address.terms.items() if other != axis]
    steps = (*others, address.constant)
    return address.terms.get(axis) == 1 and not any(step % count for step in steps)


def emit_fours(body: Body, chosen: Fours, start: str) -> None:
    """The body of iteration `start`, which has four elements."""
    text, made = body.text, body.made
    groups = made.nodes.extents[chosen.axis] // FOUR
    rest = made.parallel[:-1]
    first = body.names.fresh(chosen.axis.name)
    kind = counter(made.nodes.extents[chosen.axis])
    text.line(f"const {kind} {first} = {start}{f' % {groups}' if rest else ''} * {FOUR};")
    if rest:
        body.decompose(f"{start} / {groups}", rest)
    body.axes[chosen.axis] = first
    places = {id(address): body.scalars.corner(address) for address in chosen.stores}
    lanes: dict[int, str] = {}
    for number, address in enumerate((*chosen.loads, *chosen.stores)):
        name = body.names.fresh(f"{address.buffer.name}_4")
        lanes[id(address)] = f"{name}[lane]"
        if number < len(chosen.loads):
            buffer, place = body.scalars.corner(address)
            text.line(f"const Four {name} = four({buffer}, {place});")
        else:
            text.line(f"Four {name};")
    with text.unrolled("lane", FOUR):
        each = body.axes[chosen.axis] = body.names.fresh(chosen.axis.name)
        text.line(f"const {kind} {each} = {first} + lane;")
        body.scalars.lanes = lanes
        for statement in made.nodes.statements:
            body.statement(statement)
        body.scalars.lanes = {}
    for address in chosen.stores:
        buffer, place = places[id(address)]
        name = lanes[id(address)].removesuffix("[lane]")
        text.line(f"put({buffer}, {place}, {name});")
