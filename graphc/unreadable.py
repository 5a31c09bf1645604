"""What is said of a file that cannot be read: that it is missing, or what it is instead."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

from graphc.error import NetError, did_you_mean

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_MOST_NAMES = 2000  # of a folder, that are looked at for one that was meant
_CLOSE = 0.85  # names of files end alike, so that even foreign ones are half the same

_STARTS = (
    (b"MATLAB 5.0", "a MATLAB file"),
    (b"MATLAB 7.3", "a MATLAB file"),
    (HDF5_MAGIC, "an HDF5 file"),
    (b"\x93NUMPY", "a .npy file"),
    (b"PK\x03\x04", "a .npz or another zip file"),
    (b"\x1f\x8b", "a file packed by gzip: unpack it"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"version https://git-lfs", "what Git LFS puts in a file's place: `git lfs pull` fetches it"),
    (b"<!DOCTYPE html", "a web page"),
    (b"<html", "a web page"),
)
_SUFFIXES = {
    ".caffemodel": "weights: they are given beside the net's prototxt",
    ".solverstate": "a solver's state: training goes on from it, by --snapshot or restore",
    ".binaryproto": "one array, such as a mean image",
}


def unreadable(path: str | Path, error: OSError | ValueError, what: str = "") -> NetError:
    """The error for a file that could not be opened or read; `what` names it, "the list of files ".

    Where there is no such file, its folder is searched for one whose name is nearly the same.
    """
    reason = getattr(error, "strerror", None) or str(error)
    near = _near(Path(path)) if isinstance(error, FileNotFoundError) else ""
    return NetError(f"cannot read {what}'{path}': {reason}{near and f'; {near}'}")


def _near(path: Path) -> str:
    try:
        with os.scandir(path.parent) as entries:
            names = [entry.name for entry in islice(entries, _MOST_NAMES)]
    except OSError:
        return ""
    return did_you_mean(path.name, names, _CLOSE)


def looks_like(path: str | Path, start: bytes) -> str:
    """`; it looks like a picture`: what a file is by its first bytes or its name; else nothing."""
    kinds = [kind for magic, kind in _STARTS if start.startswith(magic)]
    if not kinds and _is_text(start):
        kinds = ["text"]
    kind = kinds[0] if kinds else _SUFFIXES.get(Path(path).suffix.lower(), "")
    return kind and f"; it looks like {kind}"


def _is_text(start: bytes) -> bool:
    return bool(start) and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start)
