"""Random kernels of many statements that read, replace and add to what they have stored.

Values are multiples of 1/4 within limits, so that every result is exact, however it is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphc.ir.types import row_major
from graphc.kernel.build import Array, Writer
from graphc.kernel.lang import INDEX, Buffer, Expr, Kernel, Var, call
from graphc.kernel.verify import verify
from graphc.kernel.walk import axes_of

EXTENTS = (1, 2, 3, 5, 8, 9, 16, 17, 33, 70)
LIMIT = 8.0


@dataclass(frozen=True, eq=False)
class Stored:
    """An output: the loop that each of its indices stands for."""

    array: Array
    parts: tuple[Var, ...]


class Chain:
    """Draws one kernel. An iteration reads of its outputs only what itself may have stored."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self.writer = Writer(f"chain{seed}")
        self.dtype = self.pick(["float32", "float32", "float64"])
        self.inputs: list[Buffer] = []
        self.outputs: list[Stored] = []
        self.locals: list[Expr] = []
        self.guards: list[Expr] = []

    def kernel(self) -> Kernel:
        """Each `each` loops, rows that all statements share or not, and up to eight statements."""
        self.each = self.writer.each(*(self.extent() for _ in range(self.rng.integers(0, 3))))
        self.own = self.writer.axes(*(self.extent() for _ in range(self.rng.integers(1, 3))))
        self.store()
        for _ in range(self.rng.integers(2, 8)):
            self.pick([self.store, self.store, self.fold, self.fold, self.let, self.scatter])()
        kernel = self.writer.finish(self.inputs, [stored.array.buffer for stored in self.outputs])
        verify(kernel)
        return kernel

    # -- parts --

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def pick(self, things: Any) -> Any:
        return things[int(self.rng.integers(len(things)))]

    def extent(self) -> int:
        return int(self.pick(EXTENTS))

    def buffer(self, dtype: str, parts: tuple[Var, ...]) -> Buffer:
        shape = tuple(v.axis.extent for v in parts)
        strides = row_major(shape)
        if self.chance(0.3):
            strides = row_major(shape[::-1])[::-1]
        return Buffer(f"b{len(self.inputs) + len(self.outputs)}", dtype, shape, strides)

    def input(self, dtype: str, parts: tuple[Var, ...]) -> Expr:
        self.inputs.append(self.buffer(dtype, parts))
        return Array(self.writer, self.inputs[-1])[parts]

    def clamp(self, value: Expr) -> Expr:
        return self.writer.maximum(self.writer.minimum(value, LIMIT), -LIMIT)

    def read(self, axes: list[Var], target: Stored | None) -> Expr | None:
        """An element of an output; of the one that is stored to, the very element."""
        if not self.outputs:
            return None
        stored = self.pick(self.outputs)
        index = [part if part in self.each else self.along(part, axes) for part in stored.parts]
        return stored.array[stored.parts if stored is target else tuple(index)]

    def along(self, part: Var, axes: list[Var]) -> Expr:
        """Where to read a row: at the place of its own loop, from its end on, or at one element."""
        extent = part.axis.extent
        if part in axes and self.chance(0.8):
            return part if self.chance(0.8) else extent - 1 - part
        return call("mod", call("add", int(self.rng.integers(extent)), 0, dtype=INDEX), extent)

    def leaf(self, axes: list[Var], target: Stored | None = None) -> Expr:
        found = self.read(axes, target) if self.chance(0.6) else None
        if found is None and self.locals and self.chance(0.4):
            found = self.pick(self.locals)
        if found is not None:
            return found
        return self.input(self.dtype, tuple(v for v in axes if self.chance(0.8)))

    def value(self, axes: list[Var], target: Stored | None = None) -> Expr:
        k = self.writer
        value = self.leaf(axes, target)
        for _ in range(self.rng.integers(0, 3)):
            forms = [
                lambda v, o: v + o,
                lambda v, o: v - o,
                k.maximum,
                lambda v, o: call("floor", v * 0.5) + o,
                lambda v, o: k.select(v < o, o, -v),
            ]
            value = self.clamp(self.pick(forms)(value, self.leaf(axes, target)))
        return self.clamp(value)

    def guard(self, axes: list[Var]) -> Expr | None:
        """At times one that was used before, of what may be other than it was."""
        known = [g for g in self.guards if axes_of(g) <= {v.axis for v in axes}]
        if not axes or not self.chance(0.25):
            return None
        if known and self.chance(0.5):
            return self.pick(known)
        first = self.pick(axes)
        forms = [first * 2 < first.axis.extent, self.leaf(axes) < 0.5]
        self.guards.append(self.pick(forms))
        return self.guards[-1]

    def rows(self) -> list[Var]:
        return [v for v in self.own if self.chance(0.8)]

    # -- statements --

    def let(self) -> None:
        self.locals.append(self.writer.let(self.value(self.each)))

    def fold(self) -> None:
        own = self.rows() or self.own
        axes = self.each + own
        kind = self.pick(["sum", "sum", "max", "min", "argmax"])
        value, where = self.value(axes), self.guard(axes)
        if kind == "argmax":
            made, place = self.writer.argmax(own, value, own[0] * 2 + own[-1], where)
            self.locals.append(self.clamp(self.writer.cast(place, self.dtype)))
        else:
            made = getattr(self.writer, kind)(own, value, where)
        self.locals.append(self.clamp(made))

    def target(self, own: list[Var]) -> Stored:
        """What was stored before, or a new array."""
        parts = (*self.each, *own)
        known = [stored for stored in self.outputs if stored.parts == parts]
        if known and self.chance(0.6):
            return self.pick(known)
        self.outputs.append(Stored(Array(self.writer, self.buffer(self.dtype, parts)), parts))
        return self.outputs[-1]

    def store(self) -> None:
        own = self.rows()
        target, axes = self.target(own), self.each + own
        mode = "add" if self.chance(0.2) else "set"
        where = None
        if axes and self.chance(0.2):
            first = self.pick(axes)
            where = first * 2 < first.axis.extent
        value = self.value(axes, target)
        self.writer.store(target.array, target.parts, value, where, mode)
        if mode == "add":  # within limits again
            element = self.clamp(target.array[target.parts])
            self.writer.store(target.array, target.parts, element)

    def scatter(self) -> None:
        """Additions at places that data chooses, to an array that nothing else reads."""
        own = self.rows() or self.own
        axes = self.each + own
        label = self.writer.cast(self.input("uint8", tuple(axes)), INDEX)
        place = call("mod", label, own[0].axis.extent)
        value = self.value(axes)
        buffer = self.buffer(self.dtype, (*self.each, own[0]))
        hidden = Stored(Array(self.writer, buffer), (*self.each, own[0]))
        self.outputs.append(hidden)
        self.writer.add(hidden.array, (*self.each, place), value)
        element = self.clamp(hidden.array[hidden.parts])
        self.writer.store(hidden.array, hidden.parts, element)


def exact_contents(kernel: Kernel, seed: int) -> list[np.ndarray]:
    """Multiples of 1/4, and bytes."""
    rng = np.random.default_rng(seed)
    arrays = []
    for buffer in kernel.buffers:
        numbers = np.asarray(rng.integers(-16, 17, buffer.shape))
        scaled = abs(numbers) if buffer.dtype == "uint8" else numbers / 4
        arrays.append(np.asarray(scaled, buffer.dtype))
    return arrays
