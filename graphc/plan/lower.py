"""Graph -> Draft: every node becomes a step on arrays, a view of another array, or nothing.

What happens to a node:
- an identity, a reshape, a slice or a transposition shows its input's bytes under other strides
  where that can be done, and costs nothing;
- a concatenation is the storage itself: what makes a part writes straight into its window;
- anything else is its operator's kernel, with the strides its arrays have;
- a node that nobody needs is dropped.

A copy is added where an array does not lie as its reader wants it, once per value and pass.
"""

from __future__ import annotations

from collections.abc import Iterable

from graphc.error import NetError
from graphc.ir.core.axes import Transpose
from graphc.ir.graph import Graph, Node, Value
from graphc.ir.op import Op
from graphc.ir.types import DTYPES, TensorType, row_major
from graphc.kernel.build import Array as KernelArray
from graphc.kernel.build import Writer, kernel_of
from graphc.kernel.lang import Buffer, Kernel
from graphc.plan.draft import Array, Draft, DraftStep, Storage
from graphc.plan.layout import (
    Layouts,
    Order,
    choose_layouts,
    lies_in_order,
    normal_strides,
    packed_strides,
    reshaped,
    strides_of,
)
from graphc.plan.needed import kept_values, live_nodes
from graphc.plan.program import Slot


def copy_kernel(
    type: TensorType, source: tuple[int, ...], target: tuple[int, ...], name: str = "copy"
) -> Kernel:
    """Element by element from one layout to another."""
    writer = Writer(name)
    buffers = Buffer.of("a0", type, source), Buffer.of("a1", type, target)
    x, y = (KernelArray(writer, buffer) for buffer in buffers)
    index = tuple(writer.each(*type.shape))
    y[index] = x[index]
    return writer.finish(buffers[:1], buffers[1:])


def lower(graph: Graph, keep: Iterable[str] = (), everything: bool = False) -> Draft:
    """Lower a graph. `keep` names blobs that must survive; `everything` keeps all of them."""
    return _Lowering(graph, kept_values(graph, keep, everything)).run()


class _Lowering:
    def __init__(self, graph: Graph, kept: dict[str, Value]):
        self.graph = graph
        self.kept = kept
        ends = [*graph.outputs.values(), *graph.updates.values(), *kept.values()]
        ends.extend(value for value, _ in graph.losses)
        self.nodes = live_nodes(graph, ends)
        self.producer = {value: node for node in self.nodes for value in node.outputs}
        self.backward: dict[Node, bool] = {}
        for node in self.nodes:
            late = any(self.is_late(value) for value in node.inputs)
            self.backward[node] = node.origin.backward or late
        self.kernels: dict[object, Kernel] = {}
        self.layouts: Layouts = choose_layouts(self.nodes, self.plain_kernel)
        self.draft = Draft(graph.name, [])
        self.homes: dict[Value, Array] = {}
        self.versions: dict[tuple[Value, tuple[int, ...], bool], Array] = {}
        self.user_storage: dict[tuple[str, str], Storage] = {}
        self.direct: dict[Value, Storage] = {}
        self.returned: dict[Value, Array] = {}
        self.windows: dict[Value, tuple[Value, int, int]] = {}

    def run(self) -> Draft:
        self.make_slots()
        self.place_outputs()
        self.plan_windows()
        self.hold_states()
        for node in self.nodes:
            self.lower_node(node)
        self.copy_outputs()
        self.commit_updates()
        self.name_blobs()
        return self.draft

    # -- kernels --

    def kernel(
        self,
        op: Op,
        inputs: tuple[TensorType, ...],
        outputs: tuple[TensorType, ...],
        strides: tuple[tuple[int, ...], ...],
    ) -> Kernel:
        key = (op, inputs, outputs, strides)
        if key not in self.kernels:
            self.kernels[key] = kernel_of(op, inputs, outputs, strides)
        return self.kernels[key]

    def plain_kernel(self, node: Node) -> Kernel:
        inputs = tuple(value.type for value in node.inputs)
        outputs = tuple(value.type for value in node.outputs)
        strides = tuple(type.strides() for type in (*inputs, *outputs))
        return self.kernel(node.op, inputs, outputs, strides)

    def copy(self, source: Array, target: Array, backward: bool, like: Node | None) -> DraftStep:
        key = ("copy", source.type, source.strides, target.strides)
        if key not in self.kernels:
            self.kernels[key] = copy_kernel(source.type, source.strides, target.strides)
        step = DraftStep(
            self.kernels[key],
            (source.name, target.name),
            layers=(like.origin.layer,) if like and like.origin.layer else (),
            kinds=("copy",),
            backward=backward,
            is_copy=True,
        )
        target.sources = frozenset({target.name})
        self.draft.steps.append(step)
        return step

    # -- slots --

    def make_slots(self) -> None:
        self.draft.slots.append(Slot("arena", "arena", TensorType("uint8", (0,))))
        for value in self.graph.inputs():
            assert value.role
            storage = Storage(value.name, value.type.bytes, len(self.draft.slots))
            self.draft.slots.append(Slot(value.name, value.role, value.type))
            self.user_storage[value.role, value.name] = storage
            self.homes[value] = self.array(value.name, value.type, value.type.strides(), storage)

    def place_outputs(self) -> None:
        """Make the output slots; a value that a node makes row-major is made right in its slot."""
        for name, value in self.graph.outputs.items():
            storage = Storage(name, value.type.bytes, len(self.draft.slots))
            self.draft.slots.append(Slot(name, "output", value.type))
            self.user_storage["output", name] = storage
            order = tuple(range(value.type.rank))
            plain = self.strides(value) == strides_of(value.shape, order)
            if value not in self.direct and self.is_made(value) and plain:
                self.direct[value] = storage

    def is_made(self, value: Value) -> bool:
        """Whether a kernel (or several, for a concatenation) writes the value: it is no view."""
        node = self.producer.get(value)
        if node is None:
            return False
        op = node.op
        same = op.is_identity and len(node.outputs) == 1
        return not (same or op.is_view or op.is_slice or isinstance(op, Transpose))

    def strides(self, value: Value) -> tuple[int, ...]:
        """Dense strides in the order that the layout stage gave the value."""
        return strides_of(value.shape, self.layouts.order(value))

    def plan_windows(self) -> None:
        """Decide which values are written straight into their place in a concatenation."""
        for node in reversed(self.nodes):
            if not node.op.is_concat:
                continue
            whole = node.outputs[0]
            offset = 0
            axis = _axis(node.op, whole.type.rank)
            for part in node.inputs:
                fits = (
                    self.is_made(part)
                    and part not in self.windows
                    and part not in self.direct
                    and self.layouts.order(part) == self.layouts.order(whole)
                    and self.backward[self.producer[part]] == self.backward[node]
                )
                if fits:
                    self.windows[part] = (whole, axis, offset)
                offset += part.shape[axis]

    def array(
        self,
        name: str,
        type: TensorType,
        strides: tuple[int, ...],
        storage: Storage | None = None,
        offset: int = 0,
        sources: frozenset[str] = frozenset(),
    ) -> Array:
        """A new array, which no step writes yet."""
        return self.draft.array(name, type, strides, storage, offset, sources)

    def home(self, value: Value) -> Array:
        """Where the value is made."""
        if value in self.homes:
            return self.homes[value]
        if value in self.windows:
            whole, axis, place = self.windows[value]
            target = self.home(whole)
            made = self.window(target, value.name, value.type, axis, place)
        else:
            made = self.array(value.name, value.type, self.strides(value), self.direct.get(value))
        made.sources = frozenset({made.name})
        self.homes[value] = made
        return made

    def window(self, target: Array, name: str, type: TensorType, axis: int, place: int) -> Array:
        offset = target.offset + place * target.strides[axis] * target.item_bytes
        strides = normal_strides(type.shape, target.strides)
        return self.array(name, type, strides, target.storage, offset, target.sources)

    def version(self, value: Value, order: Order, backward: bool, like: Node) -> Array:
        """The value with its axes in that order: as it lies, or a copy made once in each pass."""
        source = self.homes[value]
        if lies_in_order(value.shape, source.strides, order):
            return source
        packed = _order_name(order) == "packed"
        strides = (packed_strides if packed else strides_of)(value.shape, order)
        key = value, strides, backward
        if key not in self.versions:
            name = f"{value.name}~{_order_name(order)}"
            storage = Storage(name, _span_bytes(value.type, strides))
            target = self.array(name, value.type, strides, storage)
            self.copy(source, target, backward, self.producer.get(value) or like)
            self.versions[key] = target
            self.draft.remark(
                "layout",
                value.name if value.role == "parameter" else f"blob:{value.name}",
                f"is copied into {_order_name(order)} order for {like.origin.layer or like.op}",
            )
        return self.versions[key]

    # -- nodes --

    def lower_node(self, node: Node) -> None:
        op = node.op
        if op.is_identity and len(node.outputs) == 1:
            self.show(node.outputs[0], self.homes[node.inputs[0]], node)
        elif op.is_view:
            self.lower_view(node)
        elif isinstance(op, Transpose):
            self.lower_transpose(node, op)
        elif op.is_slice:
            self.lower_slice(node)
        elif op.is_concat:
            self.lower_concat(node)
        else:
            self.lower_kernel(node)

    def lower_kernel(self, node: Node) -> None:
        backward = self.backward[node]
        inputs = []
        for position, value in enumerate(node.inputs):
            order = self.layouts.wanted.get((node, position))
            if order is not None:
                inputs.append(self.version(value, order, backward, node))
            else:
                inputs.append(self.held.get((value, backward)) or self.homes[value])
        outputs = [self.home(value) for value in node.outputs]
        arrays = (*inputs, *outputs)
        kernel = self.kernel(
            node.op,
            tuple(value.type for value in node.inputs),
            tuple(value.type for value in node.outputs),
            tuple(array.strides for array in arrays),
        )
        self.draft.steps.append(
            DraftStep(
                kernel,
                tuple(array.name for array in arrays),
                layers=(node.origin.layer,) if node.origin.layer else (),
                kinds=(node.origin.kind or node.op.op_name,),
                backward=backward,
                has_effect=node.op.has_effect,
            )
        )

    def show(self, value: Value, source: Array, node: Node) -> None:
        """Let `value` be a view of `source`; a copy where its region wants another order."""
        if value in self.windows:
            raise NetError(f"a view cannot be written into a window: {value}")
        order = self.layouts.order(value)
        view = self.array(
            value.name, value.type, source.strides, source.storage, source.offset, source.sources
        )
        self.homes[value] = view
        if not lies_in_order(value.shape, view.strides, order):
            self.homes[value] = self.version(value, order, self.backward[node], node)

    def lower_view(self, node: Node) -> None:
        value, source = node.outputs[0], self.homes[node.inputs[0]]
        strides = reshaped(source.type.shape, source.strides, value.shape)
        if strides is None:
            order = tuple(range(source.type.rank))
            source = self.version(node.inputs[0], order, self.backward[node], node)
            strides = reshaped(source.type.shape, source.strides, value.shape)
        if strides is None:
            source = self.dense(node.inputs[0], self.backward[node], node)
            strides = row_major(value.shape)
        view = Array("", value.type, strides, source.storage, source.offset, source.sources)
        self.show(value, view, node)

    def dense(self, value: Value, backward: bool, like: Node) -> Array:
        """A row-major copy without gaps, for a window that lies in order but has them."""
        strides = value.type.strides()
        key = value, strides, backward
        if key not in self.versions:
            target = self.array(f"{value.name}~dense", value.type, strides)
            self.copy(self.homes[value], target, backward, like)
            self.versions[key] = target
        return self.versions[key]

    def lower_transpose(self, node: Node, op: Transpose) -> None:
        value, source = node.outputs[0], self.homes[node.inputs[0]]
        strides = tuple(source.strides[axis] for axis in op.permutation)
        strides = normal_strides(value.shape, strides)
        if lies_in_order(value.shape, strides, self.layouts.order(value)):
            view = Array("", value.type, strides, source.storage, source.offset, source.sources)
            self.show(value, view, node)
        else:
            self.lower_kernel(node)

    def lower_slice(self, node: Node) -> None:
        source = self.homes[node.inputs[0]]
        axis = _axis(node.op, source.type.rank)
        place = 0
        for value in node.outputs:
            self.homes[value] = self.window(source, value.name, value.type, axis, place)
            place += value.shape[axis]
            order = self.layouts.order(value)
            if not lies_in_order(value.shape, self.homes[value].strides, order):
                self.homes[value] = self.version(value, order, self.backward[node], node)

    def lower_concat(self, node: Node) -> None:
        """Copy the parts that are not written in place already, and gather the sources."""
        whole = self.home(node.outputs[0])
        axis = _axis(node.op, whole.type.rank)
        sources: set[str] = set()
        place = 0
        for position, part in enumerate(node.inputs):
            meant = self.windows.get(part)
            if meant is not None and meant == (node.outputs[0], axis, place):
                sources |= self.homes[part].sources
            else:
                name = f"{whole.name}~part{position}"
                window = self.window(whole, name, part.type, axis, place)
                self.copy(self.homes[part], window, self.backward[node], node)
                sources.add(window.name)
            place += part.shape[axis]
        whole.sources = frozenset(sources)

    # -- the ends --

    def hold_states(self) -> None:
        """A state that forward renews and backward reads is held in the arena for backward."""
        self.held: dict[tuple[Value, bool], Array] = {}
        reads_late = {v for n in self.nodes if self.backward[n] for v in n.inputs}
        for name, value in self.graph.updates.items():
            state = self.graph.values[name]
            maker = self.producer.get(value)
            early = maker is None or not self.backward[maker]
            if early and state in reads_late:
                held = self.array(f"{name}~held", state.type, state.type.strides())
                self.copy(self.homes[state], held, False, None)
                self.held[state, True] = held
                self.draft.held[self.homes[state].name] = held.name

    def is_late(self, value: Value) -> bool:
        """Whether a value is known only once backward begins."""
        maker = self.producer.get(value)
        return value.role == "gradient" or (maker is not None and self.backward[maker])

    def copy_outputs(self) -> None:
        for name, value in self.graph.outputs.items():
            storage = self.user_storage["output", name]
            if self.direct.get(value) is storage:
                continue
            target = self.array(f"{name}~out", value.type, value.type.strides(), storage)
            self.returned[value] = target
            self.copy(self.homes[value], target, self.is_late(value), self.producer.get(value))

    def commit_updates(self) -> None:
        """End the call with a copy of each new state into its slot; a later stage may avoid it."""
        updated = {self.user_storage["state", name] for name in self.graph.updates}
        commits = []
        for name, value in self.graph.updates.items():
            maker = self.producer.get(value)
            backward = self.is_late(value)
            source = self.homes[value]
            if source.storage in updated:  # another state, or itself: read all before any changes
                held = self.array(f"{name}~new", value.type, value.type.strides())
                self.copy(source, held, backward, maker)
                source = held
            commits.append((name, source, backward, maker))
        readers: dict[Storage, set[DraftStep]] = {}
        for step in self.draft.steps:
            for read in step.reads:
                readers.setdefault(self.draft.arrays[read].storage, set()).add(step)
        for name, source, backward, maker in commits:
            storage = self.user_storage["state", name]
            target = self.array(f"{name}~new", source.type, source.type.strides(), storage)
            step = self.copy(source, target, backward, maker)
            step.after |= readers.get(storage, set())
            self.draft.commits.append(step)

    def name_blobs(self) -> None:
        for name, value in self.graph.blobs.items():
            if name in self.graph.updates:  # the user reads it in its slot
                continue
            if value in self.homes:
                self.draft.blobs[name] = self.returned.get(value, self.homes[value]).name
            else:
                self.draft.gone[name] = (
                    f"'{name}' is not computed: nothing that was asked for needs it"
                )
        ends = [*self.kept.values(), *(value for value, _ in self.graph.losses)]
        self.draft.kept = {self.returned.get(v, self.homes[v]).name for v in ends}


def _span_bytes(type: TensorType, strides: tuple[int, ...]) -> int:
    """From the first element to the end of the last, gaps included."""
    last = sum((extent - 1) * stride for extent, stride in zip(type.shape, strides, strict=True))
    return (last + 1) * DTYPES[type.dtype] if 0 not in type.shape else 0


def _axis(op: Op, rank: int) -> int:
    """The axis along which a concatenation or a slice works."""
    return int(op.fields()["axis"]) % max(rank, 1)


def _order_name(order: Order) -> str:
    if order == tuple(range(len(order))):
        return "row-major"
    if order == (0, *range(2, len(order)), 1):
        return "channels-last"
    return "packed"
