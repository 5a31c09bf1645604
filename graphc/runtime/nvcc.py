"""Where NVIDIA's compiler is."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

NOWHERE = "neither in PATH, nor under CUDA_HOME, nor installed by pip (nvidia-cuda-nvcc)"


def nvcc_path() -> str | None:
    """The path of nvcc: in PATH, under $CUDA_HOME, or among pip's packages; None: nowhere."""
    home = os.environ.get("CUDA_HOME", "")
    folders = [f"{home}/bin"] if home else []
    found = (shutil.which("nvcc", path=folder) for folder in [*folders, *_of_pip()])
    return shutil.which("nvcc") or next(filter(None, found), None)


def _of_pip() -> list[str]:
    """Where NVIDIA's distributions put programs, `nvidia/cu13/bin`, the newest first."""
    package = importlib.util.find_spec("nvidia")
    places = (package and package.submodule_search_locations) or []
    folders = [path for place in places for path in Path(place).glob("*/bin")]
    return [str(path) for path in sorted(folders, key=lambda path: path.parent.name, reverse=True)]
