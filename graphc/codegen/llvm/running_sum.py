"""The largest score and the sum of exponentials below it, found in one sweep.

A softmax down the columns of a matrix first looks for the largest score t of a column, then keeps
exp(x - t), adds it up, and comes back for what it kept. Where neither the matrix nor a strip of its
columns stays in a cache, each of these sweeps is one over memory. So the sum is kept for the
largest score met until now, and is multiplied by exp(t - t') where a larger one t' comes

    for some rows: t' = max(t, these rows); sum = sum exp(t - t') + sum of exp(x - t'); t = t'

(Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018). Nothing is kept: what
reads exp(x - t) later makes it again.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphc.codegen.llvm.row_batch import is_sweep
from graphc.codegen.llvm.sweeps import stored_loads
from graphc.codegen.nodes import (
    FoldNode,
    KernelNodes,
    LetNode,
    Node,
    StatementNode,
    StoreNode,
    reachable,
    statement_nodes,
)
from graphc.kernel.lang import Axis

RUNNING = "running"  # the kind of a fold: its first value's largest, and sums of the others


@dataclass(frozen=True)
class RunningSum:
    """A kernel in which such a sum was found.

    statements: with a fold of kind RUNNING in place of the largest and the sum. made: the store of
    the exponentials, which is none of them: whoever reads what it stores makes it again.
    """

    statements: list[StatementNode]
    made: StoreNode


def running_sum(nodes: KernelNodes, columns: Axis) -> RunningSum | None:
    """The same where a kernel is a softmax down columns, and what its sums give; None elsewhere.

    Its sweeps: the largest score, the exponentials, sums of these, and stores that read them.
    """
    sweeps = [s for s in nodes.statements if is_sweep(s)]
    if len(sweeps) < 4 or len({s.axes for s in sweeps}) != 1 or len(sweeps[0].axes) != 1:
        return None
    if any(s.guards for s in sweeps if isinstance(s, FoldNode | StoreNode)):
        return None
    largest, made, total, *last = sweeps
    if not isinstance(largest, FoldNode) or not isinstance(made, StoreNode):
        return None
    if not isinstance(total, FoldNode) or (largest.kind, total.kind) != ("max", "sum"):
        return None
    if not all(isinstance(s, StoreNode) and s.mode == "set" for s in (made, *last)):
        return None
    if not _is_exponential(made, largest, columns, nodes) or not _is_replaced(made, last, nodes):
        return None
    loads = set(stored_loads(made, total))
    if not loads or not all(_is_multiple(n, loads, largest.names[0]) for n in total.values):
        return None
    statements = _joined(nodes.statements, largest, made, total)
    return RunningSum(statements, made) if statements else None


def _is_exponential(made: StoreNode, largest: FoldNode, columns: Axis, nodes: KernelNodes) -> bool:
    """Whether exp(score - largest score) is stored at each score's place.

    The scores may lie there, too: they must not be read anywhere else.
    """
    if made.value.op != "exp" or made.value.args[0].op != "sub" or len(largest.names) != 1:
        return False
    (score,) = largest.values
    near, far = made.value.args[0].args
    if near is not score or far.op != "local" or far.data != largest.names[0]:
        return False
    place = made.address
    in_rows = not place.parts and place.terms.get(columns) == 1 and made.axes[0] in place.terms
    loads = [n.address for n in reachable((score,)) if n.address is not None]
    same = all(
        not a.parts and a.terms == place.terms and a.constant == place.constant for a in loads
    )
    return in_rows and same and bool(loads) and not score.reads & nodes.written and not score.locals


def _is_replaced(made: StoreNode, last: list[StatementNode], nodes: KernelNodes) -> bool:
    """Whether one later store is to the same places, and all that reads them is such a sweep."""
    place = made.address
    others = [s for s in nodes.statements if isinstance(s, StoreNode) and s is not made]
    again = [s for s in others if s.address.buffer == place.buffer]
    if len(again) != 1 or again[0] is not last[-1] or again[0] is not nodes.statements[-1]:
        return False
    met = [a for s in nodes.statements for a in nodes.addresses(s) if a.buffer == place.buffer]
    same = all(not a.parts and a.terms == place.terms and a.constant == place.constant for a in met)
    written = {s.address.buffer.name for s in others if s is not again[0]}
    return same and not any(
        n.address and n.address.buffer.name in written
        for s in nodes.statements
        for n in reachable(statement_nodes(s))
    )


def _is_multiple(node: Node, loads: set[Node], top: str) -> bool:
    """Whether a value is an exponential, one times a number, or 0: so is a sum of them."""
    if node in loads or (node.op == "const" and node.data == 0):
        return True
    if node.op == "select":
        return _is_free(node.args[0], loads, top) and all(
            _is_multiple(n, loads, top) for n in node.args[1:]
        )
    if node.op != "mul":
        return False
    return any(
        _is_multiple(one, loads, top) and _is_free(other, loads, top)
        for one, other in (node.args, reversed(node.args))
    )


def _is_free(node: Node, loads: set[Node], top: str) -> bool:
    return top not in node.locals and not loads & set(reachable((node,)))


def _joined(
    statements: list[StatementNode], largest: FoldNode, made: StoreNode, total: FoldNode
) -> list[StatementNode] | None:
    """Both folds where the second was; what between them needs the largest score comes after it."""
    first, last = statements.index(largest), statements.index(total)
    before: list[StatementNode] = []
    after: list[StatementNode] = []
    late = set(largest.names)
    for statement in statements[first + 1 : last]:
        if statement is made:
            continue
        if not isinstance(statement, LetNode):
            return None
        if statement.value.locals & late:
            late.add(statement.name)
            after.append(statement)
        else:
            before.append(statement)
    if any(value.locals & late for value in total.values):
        return None
    names, values = largest.names + total.names, largest.values + total.values
    both = FoldNode(RUNNING, names, values, total.axes, ())
    return [*statements[:first], *before, both, *after, *statements[last + 1 :]]
