"""The real pycuda, and NVIDIA's own bindings where they are, on a driver that is this process.

`stand_in_driver/libcuda.cpp` answers in place of NVIDIA's driver and is stricter than it;
`stand_in_driver/nvcc.py` builds kernels for the emulator. All tests that ask for a GPU then run
here, through every line of Python and of pycuda's C++ that a GPU's would.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
COMPILER = shutil.which("g++")
# NVIDIA's libraries and its sanitizer need a real GPU; figures are asked for with less memory.
NOT_HERE = "libraries or sanitizer or figures"

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(importlib.util.find_spec("pycuda") is None, reason="needs pycuda"),
    pytest.mark.skipif(COMPILER is None, reason="needs g++"),
]

USE = """
import numpy as np
import graphc

net = graphc.Net("samples/digits.prototxt", weights="samples/digits.caffemodel", target=TARGET)
image = np.arange(64, dtype=np.float32).reshape(1, 1, 8, 8) / 64
for brighter in range(3):
    print(net.forward(data=image + brighter)["score"].argmax())
"""

FIGURES = """
from graphc.bench import device
from graphc.cli import app

device.BLOCK_BYTES = 1 << 16
words = "--shape data=2,1,28,28 --shape label=2 --mode train --target cuda --json".split()
app(["profile", "samples/lenet_train.prototxt", *words])
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables under which libcuda and nvcc are the stand-ins."""
    place = tmp_path_factory.mktemp("driver")
    source = HERE / "stand_in_driver"
    options = ["-std=c++17", "-O1", "-Wall", "-Werror", "-shared", "-fPIC"]
    target = ["-Wl,-soname,libcuda.so.1", "-o", str(place / "libcuda.so.1"), "-ldl"]
    subprocess.run(["g++", *options, str(source / "libcuda.cpp"), *target], check=True)
    run = f"import runpy; runpy.run_path({str(source / 'nvcc.py')!r}, run_name='__main__')"
    (place / "nvcc").write_text(f"#!{sys.executable}\n{run}\n")
    (place / "nvcc").chmod(0o755)
    beside = [os.environ.get("PYTHONPATH", ""), str(ROOT)]
    return {
        **os.environ,
        "LD_LIBRARY_PATH": str(place),
        "PATH": f"{place}:{os.environ['PATH']}",
        "PYTHONPATH": ":".join(filter(None, beside)),
        "PYCUDA_DISABLE_CACHE": "1",
    }


def python(environment: dict[str, str], *words: str) -> str:
    """What Python prints; it must end well, and say nothing besides."""
    done = subprocess.run(
        [sys.executable, *words],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert done.stderr == ""
    return done.stdout


def test_a_net_runs_and_the_process_ends_well(environment: dict[str, str]):
    """pycuda aborts a process that ends with a context in use."""
    got, wanted = (
        python(environment, "-c", USE.replace("TARGET", repr(target))) for target in ("cuda", "cpu")
    )
    assert got == wanted
    assert len(got.split()) == 3


def test_all_that_asks_for_a_gpu(environment: dict[str, str]):
    words = ("-m", "gpu", "-k", f"not ({NOT_HERE})", "-p", "no:cacheprovider", "-o", "addopts=")
    said = python(environment, "-m", "pytest", *words, "tests")
    found = re.search(r"(\d+) passed", said)
    assert found is not None and int(found[1]) > 10, said
    assert "skipped" not in said, said


def test_a_profile_by_events(environment: dict[str, str]):
    found = json.loads(python(environment, "-c", FIGURES))
    assert len(found["steps"]) > 20
    assert all(step["seconds"] > 0 for step in found["steps"])
