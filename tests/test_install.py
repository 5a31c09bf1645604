"""What a user gets who installs a release: a source archive, installed and run elsewhere."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUILD = "from setuptools import build_meta; import sys; print(build_meta.build_sdist(sys.argv[1]))"
TRY = """
import sys
import numpy as np
import graphc
assert graphc.__file__.startswith(sys.argv[1]), graphc.__file__
net = graphc.Net('''
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 } } }
layer { name: "y" type: "ReLU" bottom: "x" top: "y" }
''')
print(net.forward(x=np.array([-1.0, 2.0]))["y"].tolist())
"""


def run(*command: str | Path, folder: Path) -> str:
    done = subprocess.run([str(c) for c in command], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    name = run(sys.executable, "-c", BUILD, folder, folder=ROOT).splitlines()[-1]
    return folder / name


def test_the_archive_holds_the_packages_once(archive: Path) -> None:
    with tarfile.open(archive) as tar:
        names = [name.partition("/")[2] for name in tar.getnames()]
    assert "graphc/codegen/llvm/program.py" in names
    assert "graphc/py.typed" in names
    assert not [name for name in names if name.startswith(("codegen/", "runtime/"))]


def test_an_installed_release_compiles_and_runs(archive: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    flags = ["--quiet", "--no-deps", "--no-build-isolation", "--target", site]
    run(sys.executable, "-m", "pip", "install", *flags, archive, folder=tmp_path)
    code = f"import sys; sys.path.insert(0, {str(site)!r})\n{TRY}"
    output = run(sys.executable, "-P", "-c", code, site, folder=tmp_path)
    assert output == "[0.0, 2.0]\n"
