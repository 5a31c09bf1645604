"""nvcc, for what needs machine code: ptx, cubin, and a program with the net inside."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path

from graphc.error import NetError, need
from graphc.runtime.nvcc import NOWHERE, nvcc_path

OLDEST_ARCHITECTURE = "sm_80"  # what the text asks of a GPU
_FLAGS = ("-std=c++17", "-O3", "-diag-suppress=177")


def save(text: str, path: Path, form: str, architecture: str = OLDEST_ARCHITECTURE) -> None:
    """Write a CUDA text, or what nvcc makes of it for GPUs from `architecture` (`sm_90`) on.

    form: "cuda", "ptx", "cubin", or "exe" for a text with a main program.

    Raises NetError where nvcc is missing or refuses the text, OSError where a file cannot be
    written.
    """
    need(
        re.fullmatch(r"sm_\d+[a-z]?", architecture),
        f"a GPU's architecture is written sm_80 or sm_90, not '{architecture}'",
    )
    if form == "cuda":
        path.write_text(text)
        return
    nvcc = find_nvcc()
    wanted = [] if form == "exe" else [f"-{form}"]
    with tempfile.TemporaryDirectory(dir=path.absolute().parent) as scratch:
        source, made = Path(scratch, "net.cu"), Path(scratch, f"net.{form}")
        source.write_text(text)
        command = [nvcc, *_FLAGS, f"-arch={architecture}", *wanted, "-o", str(made), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = (done.stderr + done.stdout).splitlines()
            first = next((line for line in lines if "error" in line), " ".join(lines[:2]))
            raise NetError(f"nvcc fails: {first}")
        os.replace(made, path)


def find_nvcc() -> str:
    """The path of nvcc. Raises NetError where there is none."""
    found = nvcc_path()
    if found is None:
        raise NetError(
            f"this needs nvcc of the CUDA toolkit, which is {NOWHERE}; --emit cuda writes the text"
            " without it"
        )
    return found
