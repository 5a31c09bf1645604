"""Machine code kept on disk between processes.

A file holds a digest of its content and the content. It lies in a folder that only its owner may
enter (it is executable code), arrives there by a rename, and is ignored where the digest does not
fit.
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

ENVIRONMENT = "GRAPHC_CACHE"
_DIGEST_BYTES = 32


def folder() -> Path:
    """Where files are kept: $GRAPHC_CACHE, or graphc in the user's cache folder."""
    chosen = os.environ.get(ENVIRONMENT, "")
    return Path(chosen) if chosen else Path.home() / ".cache" / "graphc"


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
    try:
        data = (folder() / name).read_bytes()
    except OSError:
        return None
    digest, content = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    return content if hashlib.sha256(content).digest() == digest else None


def write(name: str, content: bytes) -> None:
    """Keep a content. A folder that cannot be written does no harm: the cache only saves time."""
    with contextlib.suppress(OSError):
        place = folder()
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=place, prefix="writing-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(content).digest() + content)
            os.replace(temporary, place / name)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise
