"""Machine code kept on disk between processes.

A file holds a digest of its content and the content. It lies in a folder that only its owner may
enter (it is executable code), arrives there by a rename, and is ignored where the digest does not
fit. Files that were not used for long go when the folder grows past a limit.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import llvmlite

from graphc.codegen.llvm.target import Target
from graphc.plan.program import Program
from graphc.runtime.cache_folder import folder, is_private

LARGEST_BYTES = 2**29
_DIGEST_BYTES = 32


def key(program: Program, kernels: Sequence[str], target: Target) -> str:
    """A name for the machine code of a program: all that it depends on, hashed.

    `kernels` are the fingerprints of the steps' kernels.
    """
    parts = [_version(), repr(target), str(program.forward_steps)]
    for step, kernel in zip(program.steps, kernels, strict=True):
        places = [program.buffers[name] for name in step.arguments]
        parts.append(f"{kernel} {[(p.slot, p.offset, p.span_bytes) for p in places]}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@functools.cache
def _version() -> str:
    """A digest of the code generator itself: another generator makes other code."""
    digest = hashlib.sha256(llvmlite.__version__.encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def read(name: str) -> bytes | None:
    """The content kept under a name; None where there is none or it is broken."""
    place = folder() / name
    try:
        if not is_private(place.parent):
            return None
        data = place.read_bytes()
        os.utime(place)
    except OSError:
        return None
    digest, content = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    return content if hashlib.sha256(content).digest() == digest else None


def write(name: str, content: bytes) -> None:
    """Keep a content. A folder that cannot be used does no harm: the cache only saves time."""
    with contextlib.suppress(OSError):
        place = folder()
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not is_private(place):
            return
        handle, temporary = tempfile.mkstemp(dir=place, prefix="writing-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(content).digest() + content)
            os.replace(temporary, place / name)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise
        _trim(place)


def _trim(place: Path) -> None:
    """Remove what was not used for longest once the folder has grown too large."""
    files = [(entry.stat(), entry) for entry in place.iterdir()]
    total = sum(status.st_size for status, _ in files)
    if total <= LARGEST_BYTES:
        return
    for status, entry in sorted(files, key=lambda pair: pair[0].st_mtime):
        entry.unlink(missing_ok=True)
        total -= status.st_size
        if total <= LARGEST_BYTES // 2:
            return
