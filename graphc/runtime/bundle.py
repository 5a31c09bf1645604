"""A compiled program as a file: machine code and the tables that a call needs.

The file is a line of text, the length of a JSON header, the header, the objects of each
program, and a SHA-256 of all that is before it. It is read without running anything of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graphc.error import NetError, need
from graphc.runtime.rate_policy import RatePolicy
from graphc.whole_file import write_parts

# The functions that the machine code of every program exports.
ENTRIES = (
    "graphc_forward",
    "graphc_backward",
    "graphc_both",
    "graphc_step",
    "graphc_timed",
    "graphc_rest",
)
_VERSION = 5
_FIRST_LINE = f"graphc bundle {_VERSION}\n".encode()
_LENGTH = struct.Struct("<Q")
_DIGEST_BYTES = 32


@dataclass(frozen=True)
class SlotEntry:
    """A row of the table of arrays; row 0 is the arena. Roles as in a Program's slots.

    Names are unique: an output is called `NAME~out` where an array of its name also comes in.
    """

    name: str
    role: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class StepEntry:
    """A kernel's run: its name, and the layer and kind of layer it belongs to."""

    kernel: str
    layer: str
    kind: str
    backward: bool


@dataclass(frozen=True)
class CheckEntry:
    """What a check that may fail says, and whose it is."""

    layer: str
    kind: str
    message: str


@dataclass(frozen=True)
class Place:
    """A strided array inside a slot; `offset` counts bytes, `strides` elements."""

    slot: int
    offset: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, repr=False)
class Tables:
    """What is known of a compiled program besides its code.

    Attributes:
        forward_steps: how many of `steps` are the forward pass.
        checks: rows for error codes 1, 2, ...
        readable: where blobs can be read after a whole call; readable_forward: after forward alone;
            overwritten: why others cannot.
        losses: (slot, weight) of what the loss is the sum of.
        renewed: states that the forward pass renews, and that a failed check leaves as they were.
        column_major: the user's arrays have the axes of the slots from last to first, as MATLAB has
            them; the bytes are the same.
    """

    name: str
    slots: tuple[SlotEntry, ...]
    arena_bytes: int
    checks: tuple[CheckEntry, ...]
    steps: tuple[StepEntry, ...]
    forward_steps: int
    readable: dict[str, Place]
    readable_forward: dict[str, Place]
    overwritten: dict[str, str]
    losses: tuple[tuple[str, float], ...] = ()
    renewed: tuple[str, ...] = ()
    column_major: bool = False

    def __repr__(self) -> str:
        what = f"{len(self.steps)} steps, {len(self.slots)} slots"
        return f"<{type(self).__name__} '{self.name}': {what}>"


@dataclass(frozen=True, kw_only=True, repr=False)
class Bundle(Tables):
    """All that is needed to run a program without the compiler.

    objects: relocatable object files for `triple`, to be linked together; they use what `cpu` has
    and vectors of `vector_bytes`. target: the name that was asked for. training: what a step does;
    None: there are no steps.
    """

    objects: tuple[bytes, ...]
    target: str
    triple: str
    cpu: str
    vector_bytes: int
    training: Training | None = None

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all. Raises NetError where it cannot be written."""
        write_parts(path, [self.content()])

    def content(self) -> bytes:
        """What the file holds."""
        programs = _programs(self)
        fields = [dataclasses.asdict(program) for program in programs]
        for row in fields:
            row["objects"] = [len(code) for code in row["objects"]]
            if row["training"] is not None:
                row["training"]["earlier"] = None
        header = json.dumps(fields).encode()
        code = b"".join(code for program in programs for code in program.objects)
        content = _FIRST_LINE + _LENGTH.pack(len(header)) + header + code
        return content + hashlib.sha256(content).digest()

    @staticmethod
    def load(path: str | Path) -> Bundle:
        """Read a file. Raises NetError where it is none of ours, cut short or changed."""
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise NetError(f"cannot read bundle '{path}': {error.strerror}") from None
        return Bundle.of_content(data, f"'{path}'")

    @staticmethod
    def of_content(data: bytes, called: str) -> Bundle:
        """The bundle in what a file holds; errors as for `load`, which name it `called`."""
        need(data.startswith(_FIRST_LINE), f"{called} is not a graphc bundle of version {_VERSION}")
        content, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
        need(
            hashlib.sha256(content).digest() == digest,
            f"bundle {called} is damaged: its checksum does not fit",
        )
        try:
            return _whole(content)
        except (ValueError, KeyError, TypeError, AttributeError, struct.error, RecursionError):
            raise NetError(f"bundle {called} is damaged: its tables cannot be read") from None


@dataclass(frozen=True)
class Training:
    """A solver, as far as a compiled step of it goes.

    Attributes:
        method: its name.
        rates: the learning rate.
        rate: slot of the rate.
        momenta: Adam's two, which correct the rate; None for other methods.
        passes: iter_size.
        parameters, histories, sums: slots of what it changes, of the method's states, and of
            gradients that passes add up.
        earlier: the program of all passes but the last; None where there is one. Its slots are
            called as those of the last, which has all of them.
    """

    method: str
    rates: RatePolicy
    rate: str
    momenta: tuple[float, float] | None
    passes: int
    parameters: tuple[str, ...]
    histories: tuple[str, ...]
    sums: tuple[str, ...]
    earlier: Bundle | None


def _programs(bundle: Bundle) -> list[Bundle]:
    """The bundle and, where its steps have several passes, the program of the earlier ones."""
    earlier = bundle.training.earlier if bundle.training is not None else None
    return [bundle] if earlier is None else [bundle, earlier]


def _whole(content: bytes) -> Bundle:
    """The bundle in a file without its digest."""
    start = len(_FIRST_LINE) + _LENGTH.size
    (length,) = _LENGTH.unpack(content[len(_FIRST_LINE) : start])
    programs = []
    begin = start + length
    for fields in json.loads(content[start:begin]):
        ends = [*itertools.accumulate(fields["objects"], initial=begin)]
        fields["objects"] = [content[one:other] for one, other in itertools.pairwise(ends)]
        programs.append(_bundle(fields))
        begin = ends[-1]
    whole, *earlier = programs
    if not earlier or whole.training is None:
        return whole
    return replace(whole, training=replace(whole.training, earlier=earlier[0]))


def _bundle(fields: dict[str, Any]) -> Bundle:
    for table, kind in (("slots", SlotEntry), ("checks", CheckEntry), ("steps", StepEntry)):
        fields[table] = tuple(_entry(kind, row) for row in fields[table])
    for table in ("readable", "readable_forward"):
        fields[table] = {name: _entry(Place, row) for name, row in fields[table].items()}
    fields["losses"] = tuple((slot, weight) for slot, weight in fields["losses"])
    if fields["training"] is not None:
        fields["training"]["rates"] = _entry(RatePolicy, fields["training"]["rates"])
        fields["training"] = _entry(Training, fields["training"])
    made: Bundle = _entry(Bundle, fields)
    return made


def _entry(kind: Any, row: dict[str, Any]) -> Any:
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in row.items()})
