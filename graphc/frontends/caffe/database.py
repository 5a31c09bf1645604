"""LMDB databases of Datum records: the images that Caffe's Data layer reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from graphc.error import NetError
from graphc.frontends.caffe import schema

LMDB_IS_MISSING = "LMDB databases need lmdb: pip install 'graphc[data]'"


@dataclass(frozen=True)
class Datum:
    """One record: an image [channels, height, width], or the bytes of a picture file."""

    label: int
    image: np.ndarray | None
    encoded: bytes = b""


def lmdb_library() -> Any:
    """The module lmdb, which is installed only where it was asked for; else NetError."""
    try:
        import lmdb
    except ImportError:
        raise NetError(LMDB_IS_MISSING) from None
    return lmdb


def is_database(folder: Path) -> bool:
    """Whether an LMDB database lies there."""
    return (folder / "data.mdb").is_file()


def read_datums(
    folder: Path, count: int, after: bytes | None = None
) -> tuple[list[Datum], bytes | None]:
    """`count` records in the order of their keys, and the key of the last of them.

    They begin behind the key `after`; behind the last record comes the first again. An empty
    database gives none. It is open only while this runs, since LMDB lets a process open it once.
    Raises NetError where it, or a record, cannot be read.
    """
    lmdb = lmdb_library()
    found: list[Datum] = []
    try:
        with (
            lmdb.open(str(folder), readonly=True, lock=False) as database,
            database.begin() as transaction,
        ):
            _need_whole(folder, database)
            cursor = transaction.cursor()
            here = after is not None and cursor.set_range(after)
            here = here and (cursor.key() != after or cursor.next())
            while len(found) < count and (here or cursor.first()):
                after = cursor.key()
                found.append(_datum(cursor.value(), folder, after))
                here = cursor.next()
    except (lmdb.Error, OSError) as error:
        raise NetError(f"cannot read the database '{folder}': {error}") from None
    return found, after


def _need_whole(folder: Path, database: Any) -> None:
    """Refuse a file that was cut off: reading a page that is not there would end the process."""
    pages = database.info()["last_pgno"] + 1
    wanted, held = pages * database.stat()["psize"], (folder / "data.mdb").stat().st_size
    if held < wanted:
        raise NetError(f"the database '{folder}' is cut off: {held} of {wanted} bytes are there")


def _datum(record: bytes, folder: Path, key: bytes) -> Datum:
    what = f"record '{key.decode(errors='replace')}' of '{folder}'"
    try:
        held: Any = schema.message_class("Datum").FromString(record)
    except DecodeError:
        raise NetError(f"{what} is no Datum") from None
    if held.encoded:
        return Datum(held.label, None, held.data)
    shape = (held.channels, held.height, held.width)
    if held.data:
        values = np.frombuffer(held.data, np.uint8)
    else:
        values = np.array(held.float_data, np.float32)
    if min(shape) < 1 or values.size != np.prod(shape, dtype=object):
        extents = " x ".join(map(str, shape))
        raise NetError(f"{what} is {extents} and holds {values.size} numbers")
    return Datum(held.label, values.reshape(shape))
