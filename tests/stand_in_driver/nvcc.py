"""In place of NVIDIA's compiler, for tests: kernels as machine code of this processor.

    python nvcc.py --cubin [options] net.cu

The library holds the emulator's form of every kernel, and what the driver beside this file needs to
start one by name with packed arguments.
"""

import re
import sys
from pathlib import Path

from graphc.runtime import emulator

START = Path(__file__).with_name("start.cpp")


def with_start(text: str) -> str:
    """The text of a net with a function that starts any of its kernels."""
    kernels = re.findall(r'extern "C" __global__ void[^\n]*\n(\w+)\(', text)
    names = [f'if (name == "{kernel}") return true;' for kernel in kernels]
    starts = [
        f'if (name == "{k}") return stand_in::start({k}, "{k}", grid, block, bytes, packed);'
        for k in kernels
    ]
    tail = START.read_text().replace("/* names */", "\n  ".join(names))
    return text + tail.replace("/* starts */", "\n  ".join(starts))


def main(words: list[str]) -> None:
    if "--version" in words:
        print("nvcc: a stand-in, release 13.0")
        return
    source = Path(words[-1])
    if "--preprocess" in words:
        print(source.read_text())
        return
    assert "--cubin" in words, words
    library = emulator.build(with_start(source.read_text()))
    source.with_suffix(".cubin").write_bytes(library.read_bytes())


if __name__ == "__main__":
    main(sys.argv[1:])
