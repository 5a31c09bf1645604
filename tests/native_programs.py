"""Programs put together by hand, without operators or a plan: for tests of code generation only."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphc.codegen.llvm.target import Target
from graphc.ir.types import TensorType, row_major
from graphc.kernel.build import Array, Writer
from graphc.kernel.lang import Buffer, Kernel
from graphc.plan.program import MemoryReport, Program, ProgramBuffer, Slot, SlotRole, Step


def _targets() -> tuple[str, ...]:
    host = Target.named("host")
    avx2 = host.triple.startswith("x86_64") and host.vector_bytes >= 32 and host.has_fma
    return ("host", "x86-64-v3", "scalar") if avx2 else ("host", "scalar")


TARGETS = _targets()  # those whose code this machine can run


def kernel(
    write: Callable[..., None], inputs: Sequence[Buffer], outputs: Sequence[Buffer]
) -> Kernel:
    """The kernel that `write(k, *arrays)` writes on these buffers."""
    k = Writer(write.__name__)
    write(k, *(Array(k, buffer) for buffer in (*inputs, *outputs)))
    return k.finish(inputs, outputs)


def dense(name: str, *shape: int, dtype: str = "float32") -> Buffer:
    """A row-major buffer."""
    return Buffer(name, dtype, shape, row_major(shape))


def channels_last(name: str, n: int, c: int, h: int, w: int) -> Buffer:
    """A float32 image buffer whose channels lie next to each other."""
    return Buffer(name, "float32", (n, c, h, w), (c * h * w, 1, w * c, c))


class Assembly:
    """Collects slots, buffers and steps; buffers of the arena never share bytes."""

    def __init__(self, name: str):
        self.name = name
        self.slots = [Slot("arena", "arena", TensorType("uint8", (0,)))]
        self.buffers: dict[str, ProgramBuffer] = {}
        self.steps: list[Step] = []
        self.arena_bytes = 0

    def user(self, name: str, *shape: int, dtype: str = "float32", role: SlotRole = "input") -> str:
        """An array of the user's."""
        self.slots.append(Slot(name, role, TensorType(dtype, shape)))
        self._place(name, dtype, shape, len(self.slots) - 1, 0)
        return name

    def inner(self, name: str, *shape: int, dtype: str = "float32") -> str:
        """A buffer of the arena."""
        self._place(name, dtype, shape, 0, self.arena_bytes)
        self.arena_bytes += -(-TensorType(dtype, shape).bytes // 64) * 64
        return name

    def _place(self, name: str, dtype: str, shape: tuple[int, ...], slot: int, offset: int) -> None:
        strides = row_major(shape)
        self.buffers[name] = ProgramBuffer(name, dtype, shape, strides, slot, offset, 0, 10**6)

    def step(
        self,
        write: Callable[..., None],
        inputs: Sequence[str],
        outputs: Sequence[str],
        layer: str = "",
        kind: str = "",
    ) -> None:
        """A step that runs what `write` writes."""
        names = [*inputs, *outputs]
        formal = [
            Buffer(f"a{i}", self.buffers[n].dtype, self.buffers[n].shape, self.buffers[n].strides)
            for i, n in enumerate(names)
        ]
        made = kernel(write, formal[: len(inputs)], formal[len(inputs) :])
        self.steps.append(Step(made, tuple(names), layer, kind))

    def program(self, forward_steps: int | None = None) -> Program:
        """The whole; every buffer is readable."""
        return Program(
            name=self.name,
            slots=tuple(self.slots),
            buffers=self.buffers,
            steps=tuple(self.steps),
            forward_steps=len(self.steps) if forward_steps is None else forward_steps,
            arena_bytes=self.arena_bytes,
            memory=MemoryReport(0, 0, 0, 0),
            readable={name: name for name in self.buffers},
            overwritten={"gone": "'gone' was overwritten by 'relu2'"},
        )
