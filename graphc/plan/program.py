"""A Program: kernels in order, on buffers whose place in memory is decided.

Memory is a table of slots. Slot 0 is the arena, one block that holds everything made during a
call; every other slot is an array of the user's (an input, a parameter, its gradient, an output, a
state). A buffer is a strided window at a byte offset of one slot; several may overlap where the
plan proved that this is right.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from graphc.ir.remark import Remark
from graphc.ir.types import DTYPES, TensorType
from graphc.kernel.lang import Kernel

# What a slot holds. input: read. output: written. parameter, constant: read. gradient: given, read.
# state: read and written (dropout counter, a parameter's gradient that adds up, solver history).
SlotRole = Literal["arena", "input", "output", "parameter", "constant", "gradient", "state"]


@dataclass(frozen=True)
class Slot:
    """One entry of the table that a call gets: a dense row-major array, 64-byte aligned."""

    name: str
    role: SlotRole
    type: TensorType


@dataclass(frozen=True)
class ProgramBuffer:
    """A value's place. Between steps `first` and `last` its bytes must stay as they are.

    A buffer in a user's slot lives for the whole call. `strides` count elements, `offset` bytes.
    `needed` is the last step that has a use for it; a blob that nobody happens to overwrite is
    promised for longer.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    slot: int
    offset: int
    first: int
    last: int
    needed: int = -1

    @property
    def span_bytes(self) -> int:
        """Bytes from the first to past the last element."""
        if 0 in self.shape:
            return 0
        reach = sum((e - 1) * s for e, s in zip(self.shape, self.strides, strict=True))
        return (reach + 1) * DTYPES[self.dtype]

    def lies_in(self, other: ProgramBuffer) -> bool:
        """Whether its bytes are bytes of the other's, at whatever time."""
        end, other_end = self.offset + self.span_bytes, other.offset + other.span_bytes
        return self.slot == other.slot and other.offset <= self.offset and end <= other_end


@dataclass(frozen=True)
class Step:
    """One kernel on actual buffers, named in the order of the kernel's formal arguments."""

    kernel: Kernel
    arguments: tuple[str, ...]
    layer: str = ""
    kind: str = ""
    backward: bool = False

    @property
    def again(self) -> bool:
        """Whether it computes what was computed before, to meet a budget."""
        return "again" in self.kind.split(", ")


@dataclass(frozen=True)
class SavedRow:
    """One kind of decision: how often, bytes of all its arrays, and the bound of the order without.

    without: None where the arrays are gone so early that nobody knows when they would be needed.
    """

    choice: str
    count: int
    bytes: int
    without: int | None = None


@dataclass(frozen=True)
class MemoryReport:
    """What the arena came to, in bytes.

    peak: the arena. bound_of_order: the largest sum of bytes live at one step, in this order.
    bound_of_any_order: no order of these steps can do with less. naive: the sum of all buffers.
    slots: the user's arrays, by role. saved: what each kind of decision saved.
    """

    peak: int
    bound_of_order: int
    bound_of_any_order: int
    naive: int
    slots: dict[str, int] = field(default_factory=dict)
    saved: tuple[SavedRow, ...] = ()


@dataclass(frozen=True, repr=False)
class Program:
    """What code generation reads. Steps before `forward_steps` are the forward pass.

    `readable` maps the user's blob names (`conv1`, `conv1.diff`) to the buffers that still hold
    them after the call; `overwritten` maps the others to a sentence that says who overwrote them.
    `readable_forward` maps the blobs that stand after the forward steps alone.
    """

    name: str
    slots: tuple[Slot, ...]
    buffers: dict[str, ProgramBuffer]
    steps: tuple[Step, ...]
    forward_steps: int
    arena_bytes: int
    memory: MemoryReport
    readable: dict[str, str]
    overwritten: dict[str, str]
    remarks: tuple[Remark, ...] = ()
    readable_forward: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Short: `graphc.plan.text` prints the whole."""
        return (
            f"<Program '{self.name}': {len(self.steps)} steps on {len(self.buffers)} buffers,"
            f" an arena of {self.arena_bytes} bytes>"
        )

    @property
    def slot_names(self) -> tuple[str, ...]:
        """One name a slot, all different: `NAME~out` for an output where NAME comes in, too."""
        entering = {slot.name for slot in self.slots if slot.role != "output"}
        return tuple(
            f"{slot.name}~out" if slot.role == "output" and slot.name in entering else slot.name
            for slot in self.slots
        )
