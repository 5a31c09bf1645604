"""The gradient of an operator that does not say one, derived from its kernel.

That works where the kernel is elementwise: one output, every element of which is an expression in
the elements of the inputs at the same place. The expression is read off the kernel and
differentiated symbolically, as for `Map`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from graphc.error import NetError, need
from graphc.ir.graph import Value
from graphc.ir.op import Example, Op, derive_gradients_with, lookup, normal, operator, positive
from graphc.ir.types import TensorType
from graphc.kernel.build import Writer, kernel_of
from graphc.kernel.lang import Const, Expr, Kernel, Let, Load, Local, Store, Var
from graphc.kernel.walk import rebuild, walk
from graphc.ops import scalar as scalars
from graphc.ops.elementwise import SlopeOfMap


def kernel_scalar(kernel: Kernel) -> tuple[Expr, list[Local]]:
    """The expression of an elementwise kernel, and the names in it that stand for its inputs.

    Raises NetError, saying why, where a kernel is not elementwise.
    """
    name = f"the kernel of '{kernel.name}'"
    need(len(kernel.outputs) == 1, f"{name} has {len(kernel.outputs)} outputs")
    names = [Local(f"x{position}", buffer.dtype) for position, buffer in enumerate(kernel.inputs)]
    stores = [statement for statement in kernel.body if isinstance(statement, Store)]
    need(len(stores) == 1, f"{name} stores {len(stores)} times")
    (store,) = stores
    _need_every_element(kernel, store, name)
    known: dict[Expr, Expr] = {}
    for position, buffer in enumerate(kernel.inputs):
        known[Load(buffer, store.index)] = names[position]
    for statement in kernel.body:
        if isinstance(statement, Let):
            known[statement.local] = rebuild(statement.value, known)
        elif statement is not store:
            raise NetError(f"{name} has a {type(statement).__name__.lower()} besides its store")
    expr = rebuild(store.value, known)
    for part in walk(expr):
        need(
            not isinstance(part, Load),
            f"{name} reads elements that are not at the place it writes",
        )
        need(not isinstance(part, Var), f"{name} computes with an index")
    return expr, names


def _need_every_element(kernel: Kernel, store: Store, name: str) -> None:
    """The one store must write each element of the output once, whatever the data are."""
    (output,) = kernel.outputs
    need(store.mode == "set" and store.where is None, f"{name} does not store every element")
    axes = [index.axis for index in store.index if isinstance(index, Var)]
    fixed = [extent for index, extent in zip(store.index, output.shape, strict=True)
             if index == Const(0, index.dtype) and extent == 1]  # fmt: skip
    extents = tuple(index.axis.extent if isinstance(index, Var) else 1 for index in store.index)
    need(
        len(axes) + len(fixed) == len(store.index)
        and len(set(axes)) == len(axes)
        and set(axes) == {*kernel.each, *store.axes}
        and extents == output.shape,
        f"{name} does not store every element at the place of its loops",
    )


@operator
class KernelGradient(SlopeOfMap):
    """dy * d output / d x[wrt] of operator `of` with those `fields`, whose kernel is elementwise.

    Inputs: dy, then the ones of the `count` forward inputs that the derivative reads. All have one
    type, of the `shape` given.
    """

    of: str
    fields_of: tuple[Any, ...]
    wrt: int
    count: int
    shape: tuple[int, ...]

    def slope(self, k: Writer, dtype: str) -> tuple[Expr, list[Local]]:
        """The names are those of the forward inputs."""
        type = TensorType(dtype, self.shape)
        kernel = kernel_of(lookup(self.of)(*self.fields_of), [type] * self.count, [type])
        expr, names = kernel_scalar(kernel)
        return scalars.derivative(expr, names[self.wrt]), names

    def is_zero(self) -> bool:
        """Whether the output does not change with the input, but perhaps in jumps."""
        return self.slope(Writer(self.of), "float64")[0] == Const(0.0, "float64")

    @classmethod
    def examples(cls) -> Iterator[Example]:
        yield Example(cls("power", (2.0, 1.0, 0.5), 0, 1, (2, 3)), normal(2, 3), positive(2, 3))
        yield Example(cls("product", (False,), 1, 2, (4,)), normal(4), normal(4))


@derive_gradients_with
def gradient_from_kernel(op: Op, dy: Value, y: Value, *inputs: Value) -> tuple[Value | None, ...]:
    """The gradient of any operator whose kernel is elementwise.

    An input that changes the output in jumps alone, or not at all, gets none. Raises NetError where
    the kernel is not elementwise.
    """
    why = f"operator '{op.op_name}' has no gradient"
    need(not isinstance(y, tuple), why)
    need(
        inputs and all(x.type == y.type for x in inputs) and y.type.is_real,
        f"{why}, and none can be derived: its inputs and its output are not of one real type",
    )
    try:
        kernel_scalar(kernel_of(op, [x.type for x in inputs], [y.type]))
        made: list[Value | None] = []
        for wrt in range(len(inputs)):
            fields = tuple(op.fields().values())
            part = KernelGradient(op.op_name, fields, wrt, len(inputs), y.shape)
            needed = () if part.is_zero() else part.reads()
            made.append(None if part.is_zero() else part(dy, *(inputs[i] for i in needed)))
    except NetError as error:
        raise NetError(f"{why}, and none can be derived from its kernel: {error}") from None
    return tuple(made)
