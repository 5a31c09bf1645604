"""A compiled program as a file: machine code and the tables that a call needs.

The file is a line of text, the length of a JSON header, the header, the machine code, and a SHA-256
of all that is before it. It is read without running anything of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphc.error import NetError, need

_FIRST_LINE = b"graphc bundle 1\n"
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


@dataclass(frozen=True)
class Bundle:
    """All that is needed to run a program without the compiler.

    object: a relocatable object file for `triple`; it uses what `cpu` has and vectors of
    `vector_bytes`. target: the name that was asked for. checks: rows for error codes 1, 2, ...
    readable: where blobs can be read after a whole call, readable_forward: after forward alone.
    overwritten: why others cannot. column_major: the user's arrays have the axes of the slots from
    last to first, as MATLAB has them; the bytes are the same.
    """

    name: str
    object: bytes
    target: str
    triple: str
    cpu: str
    vector_bytes: int
    slots: tuple[SlotEntry, ...]
    arena_bytes: int
    checks: tuple[CheckEntry, ...]
    steps: tuple[StepEntry, ...]
    forward_steps: int
    readable: dict[str, Place]
    readable_forward: dict[str, Place]
    overwritten: dict[str, str]
    column_major: bool = False

    def save(self, path: str | Path) -> None:
        """Write the file."""
        fields = dataclasses.asdict(self)
        del fields["object"]
        header = json.dumps(fields).encode()
        content = _FIRST_LINE + _LENGTH.pack(len(header)) + header + self.object
        Path(path).write_bytes(content + hashlib.sha256(content).digest())

    @staticmethod
    def load(path: str | Path) -> Bundle:
        """Read a file. Raises NetError where it is none of ours, cut short or changed."""
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise NetError(f"cannot read bundle '{path}': {error.strerror}") from None
        need(data.startswith(_FIRST_LINE), f"'{path}' is not a graphc bundle of version 1")
        content, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
        need(
            hashlib.sha256(content).digest() == digest,
            f"bundle '{path}' is damaged: its checksum does not fit",
        )
        start = len(_FIRST_LINE) + _LENGTH.size
        (length,) = _LENGTH.unpack(content[len(_FIRST_LINE) : start])
        fields: dict[str, Any] = json.loads(content[start : start + length])
        fields["slots"] = tuple(_entry(SlotEntry, row) for row in fields["slots"])
        fields["checks"] = tuple(_entry(CheckEntry, row) for row in fields["checks"])
        fields["steps"] = tuple(_entry(StepEntry, row) for row in fields["steps"])
        for table in ("readable", "readable_forward"):
            rows = fields[table].items()
            fields[table] = {name: _entry(Place, row) for name, row in rows}
        return Bundle(object=content[start + length :], **fields)


def _entry(kind: Any, row: dict[str, Any]) -> Any:
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in row.items()})
