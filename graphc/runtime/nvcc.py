"""Where NVIDIA's compiler is."""

from __future__ import annotations

import os
import shutil


def nvcc_path() -> str | None:
    """The path of nvcc, in PATH or under $CUDA_HOME; None where there is none."""
    home = os.environ.get("CUDA_HOME", "")
    return shutil.which("nvcc") or (shutil.which("nvcc", path=f"{home}/bin") if home else None)
