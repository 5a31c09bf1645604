"""`graphc doctor`: what this machine has, and what is missing for what."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from graphc.cli.options import JsonOption
from graphc.cli.report import print_json, say

BASE = ("numpy", "networkx", "llvmlite", "protobuf", "typer", "rich")
# Extra -> (distribution, module) of what it installs, as in pyproject.toml.
EXTRAS = {
    "cuda": (("pycuda", "pycuda"), ("cuda-bindings", "cuda")),
    "mat": (("scipy", "scipy"), ("h5py", "h5py")),
    "data": (("lmdb", "lmdb"), ("h5py", "h5py"), ("pillow", "PIL")),
    "plot": (("matplotlib", "matplotlib"),),
    "rival": (("torch", "torch"),),
}
_SECONDS = 10


def doctor(
    json: JsonOption = False,
) -> None:
    """Print what this machine has."""
    found = examine()
    if json:
        print_json(found)
        return
    for section, facts in found.items():
        say(section)
        width = max(len(name) for name in facts)
        for name, value in facts.items():
            say(f"  {name:<{width}}  {_shown(value)}")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def examine() -> dict[str, dict[str, Any]]:
    """All facts, by section."""
    return {
        "graphc": _base(),
        "processor": _processor(),
        "C compiler": _c_compiler(),
        "CUDA": _cuda(),
        "extras": {extra: _extra(extra) for extra in EXTRAS},
        "cache": _cache(),
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _base() -> dict[str, Any]:
    import platform

    from graphc import __version__
    from graphc.codegen.llvm.target import llvm_version

    return {
        "version": __version__,
        "Python": platform.python_version(),
        "system": platform.platform(),
        **{name: _version(name) for name in BASE},
        "LLVM": llvm_version(),
    }


def _processor() -> dict[str, Any]:
    from graphc.codegen.llvm.target import Target
    from graphc.runtime.cpu import usable_cores

    target = Target.host()
    flags = target.features.split(",") if target.features else []
    return {
        "target": target.name,
        "name": target.cpu,
        "triple": target.triple,
        "vector": f"{target.vector_bytes * 8} bits, {target.registers} registers",
        "fused multiply-add": target.has_fma,
        "L1 data cache": f"{target.l1_bytes >> 10} KiB",
        "L2 cache": f"{target.l2_bytes >> 10} KiB",
        "a load takes": f"{target.load_slots:g} slots of a multiply-add",
        "memory is fastest in": f"{target.streams} streams" if target.streams > 1 else "one stream",
        "pages at hand": target.near_pages or "enough",
        "stores are faster": "in the shared cache" if target.shared_stores else "past the caches",
        "usable cores": usable_cores(),
        "features": [flag[1:] for flag in flags if flag.startswith("+")],
    }


def _c_compiler() -> dict[str, Any]:
    command = os.environ.get("CC", "").split() or ["cc"]
    path = shutil.which(command[0])
    if path is None:
        return {"command": f"{command[0]}: not found; `graphc compile` needs one to link"}
    return {"command": path, "version": _first_line([path, "--version"])}


def _cuda() -> dict[str, Any]:
    from graphc.runtime.nvcc import NOWHERE, nvcc_path

    nvcc = nvcc_path()
    return {
        "driver": _cuda_driver(),
        "GPU": _gpus(),
        "toolkit": _toolkit(nvcc) if nvcc else f"none: nvcc is {NOWHERE}",
        "pycuda": _version("pycuda") or _missing("cuda"),
        "emulator": _emulator(),
        **_libraries(),
    }


def _libraries() -> dict[str, str]:
    """Those that may do steps in place of generated kernels, where they are faster."""
    from graphc.runtime.shared_library import PACKAGES, library_version

    return {
        name: library_version(name)
        or f"none: generated kernels do without (pip install {PACKAGES[name]})"
        for name in PACKAGES
    }


def _driver_library() -> Any:
    import ctypes

    try:
        return ctypes.CDLL("libcuda.so.1" if os.name == "posix" else "nvcuda.dll")
    except OSError:
        return None


def _cuda_driver() -> str:
    """The newest CUDA version that the installed driver runs."""
    import ctypes

    library, version = _driver_library(), ctypes.c_int(0)
    if library is None:
        return "none: its library is not there"
    failed = library.cuDriverGetVersion(ctypes.byref(version))
    if failed:
        return f"its library answers with error {failed}"
    return f"for CUDA {version.value // 1000}.{version.value % 1000 // 10}"


def _gpus() -> list[str] | str:
    """Their names, by the driver; pycuda is not needed for this."""
    import ctypes

    library, count = _driver_library(), ctypes.c_int(0)
    if library is None:
        return "none: no driver"
    failed = library.cuInit(0) or library.cuDeviceGetCount(ctypes.byref(count))
    if failed:
        return f"none: the driver answers with error {failed}"
    return [_gpu_name(library, number) for number in range(count.value)]


def _gpu_name(library: Any, number: int) -> str:
    import ctypes

    gpu, name = ctypes.c_int(0), ctypes.create_string_buffer(256)
    failed = library.cuDeviceGet(ctypes.byref(gpu), number)
    failed = failed or library.cuDeviceGetName(name, len(name), gpu)
    return f"error {failed}" if failed else name.value.decode(errors="replace")


def _emulator() -> str:
    """The C++ compiler of target cuda-emulator."""
    from graphc.error import NetError
    from graphc.runtime.emulator import compiler

    try:
        return _first_line([*compiler(), "--version"])
    except NetError as error:
        return str(error)


def _toolkit(nvcc: str) -> str:
    lines = _output([nvcc, "--version"]).splitlines()
    release = next((line.strip() for line in lines if "release" in line), "")
    return f"{nvcc}: {release}" if release else f"{nvcc}: does not answer"


def _first_line(command: list[str]) -> str:
    lines = _output(command).splitlines()
    return lines[0] if lines else "does not answer"


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def _extra(extra: str) -> str:
    absent = [name for name, module in EXTRAS[extra] if find_spec(module) is None]
    if absent:
        return f"{_missing(extra)} (lacks {', '.join(absent)})"
    return ", ".join(f"{name} {_version(name) or ''}".strip() for name, _ in EXTRAS[extra])


def _missing(extra: str) -> str:
    return f"pip install 'graphc[{extra}]'"


def _cache() -> dict[str, Any]:
    from graphc.runtime.cache_folder import folder

    place = folder()
    files = [file for file in place.glob("*") if file.is_file()] if place.is_dir() else []
    return {
        "folder": str(place),
        "writable": _writable(place),
        "files": len(files),
        "size": f"{sum(file.stat().st_size for file in files) / 2**20:.1f} MiB",
    }


def _writable(place: Path) -> bool:
    """Whether the folder, or the nearest one that exists above it, can be written."""
    while not place.exists() and place != place.parent:
        place = place.parent
    return place.is_dir() and os.access(place, os.W_OK)
