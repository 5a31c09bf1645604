"""The text files that name what a data layer reads: HDF5 files, or pictures with their labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from graphc.error import NetError
from graphc.unreadable import unreadable


def hdf5_files(listed: Path) -> list[Path]:
    """The files that a list names, beside it or where the working folder leads.

    Raises NetError where the list cannot be read, is empty, or names a file that is not there.
    """
    found = []
    for number, line in _lines(listed, "the list of files "):
        for name in line.split():
            beside = listed.parent / name
            path = beside if beside.is_file() or not Path(name).is_file() else Path(name)
            if not path.is_file():
                raise NetError(f"{listed}:{number}: there is no file '{path}'")
            found.append(path)
    if not found:
        raise NetError(f"the list '{listed}' names no file")
    return found


def listed_pictures(listed: Path) -> Iterator[tuple[str, int]]:
    """The lines `FILE LABEL` of a list; a file's name may hold spaces.

    Raises NetError, as it comes to it, where the list cannot be read, has another line or no line.
    """
    is_empty = True
    for number, line in _lines(listed, "the list of pictures "):
        name, _, label = line.rpartition(" ")
        if not name or not label.lstrip("-").isdecimal():
            raise NetError(f"{listed}:{number}: '{line[:80]}' is not a file and its label")
        is_empty = False
        yield name, int(label)
    if is_empty:
        raise NetError(f"the list '{listed}' names no picture")


def _lines(listed: Path, what: str) -> Iterator[tuple[int, str]]:
    """The lines that say something, and their numbers from 1."""
    try:
        with listed.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line.strip()
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(listed, error, what) from None
