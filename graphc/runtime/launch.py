"""A program for a GPU as plain data: its CUDA text, and what to launch with which arguments.

The back ends that run it (`graphc.runtime.cuda`, `graphc.runtime.emulator`) need nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from graphc.runtime.bundle import Tables
from graphc.runtime.library_call import Call

FREE_SHARED_BYTES = 48 << 10  # shared memory that a kernel may have without being allowed more


@dataclass(frozen=True)
class Launch:
    """One step. Its arguments are the addresses of `places`, (slot, byte offset), in order.

    The first `inputs` of them are only read. After them, where `first_check` is not None, come the
    address of the error words and that number. A grid of 0 blocks is not launched. `follower` is
    launched behind it.
    """

    kernel: str
    grid: int
    threads: int
    shared_bytes: int
    places: tuple[tuple[int, int], ...]
    inputs: int
    first_check: int | None
    follower: Launch | None = None


LIBRARY_MEMORY = -1
# Whether steps are libraries' calls: where they are measured faster, wherever they can, never.
LibraryChoice = Literal["auto", "on", "off"]
LIBRARY_CHOICES: tuple[LibraryChoice, ...] = get_args(LibraryChoice)


@dataclass(frozen=True)
class Reference:
    """A place in memory: bytes behind where an argument of a step begins, or behind where the
    memory of library steps does (LIBRARY_MEMORY).
    """

    argument: int
    offset: int = 0


@dataclass(frozen=True)
class Beside:
    """A kernel that runs before or after a library's call, on arguments of its own."""

    launch: Launch
    arguments: tuple[Reference, ...]


@dataclass(frozen=True)
class Argument:
    """One of a step's arguments: bytes from its first to past its last element."""

    dtype: str
    bytes: int


@dataclass(frozen=True)
class LibraryStep:
    """Another way to run a step: copies of operands, a library's call, what follows the sum.

    Attributes:
        operands: those of the call, in its order.
        memory_bytes: of the copies and of the sums, where something follows them.
        arguments: the step's, in the order of its launch's places.
        digest: of everything that it is compared with and made of.
    """

    call: Call
    operands: tuple[Reference, ...]
    before: tuple[Beside, ...]
    after: Beside | None
    memory_bytes: int
    arguments: tuple[Argument, ...]
    digest: str


@dataclass(frozen=True, kw_only=True, repr=False)
class CudaBundle(Tables):
    """All that is needed to run a program on a GPU.

    decisions: (layer, sentence) about the code. libraries: the steps, by number, that a library
    could do as well; the text holds the kernels beside their calls.
    """

    text: str
    launches: tuple[Launch, ...]
    decisions: tuple[tuple[str, str], ...] = ()
    libraries: dict[int, LibraryStep] = field(default_factory=dict)
    library_choice: LibraryChoice = "off"
