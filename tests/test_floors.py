"""Imports go down the floors, and every third-party library has one door."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "graphc"

# The floor of a module is that of the longest matching prefix.
FLOORS = {
    "graphc": 6,
    "graphc.source": 0,
    "graphc.error": 0,
    "graphc.columns": 0,
    "graphc.call_arguments": 0,
    "graphc.phase": 0,
    "graphc.unreadable": 0,
    "graphc.whole_file": 0,
    "graphc.ir": 1,
    "graphc.runtime": 1,
    "graphc.passes": 2,
    "graphc.kernel": 2,
    "graphc.ops": 3,
    "graphc.plan": 3,
    "graphc.frontends": 4,
    "graphc.codegen": 4,
    "graphc.back_ends": 5,
    "graphc.driver": 5,
    "graphc.host_calls": 5,
    "graphc.net": 5,
    "graphc.compilations": 5,
    "graphc.linker": 5,
    "graphc.artifact": 5,
    "graphc.net_arrays": 5,
    "graphc.net_calls": 5,
    "graphc.net_inputs": 5,
    "graphc.net_parameters": 5,
    "graphc.net_parts": 5,
    "graphc.net_shapes": 5,
    "graphc.blob_values": 5,
    "graphc.gradient_request": 5,
    "graphc.blob": 5,
    "graphc.arrays": 1,
    "graphc.weights": 5,
    "graphc.numpy_file": 1,
    "graphc.picture": 4,
    "graphc.random_inputs": 5,
    "graphc.gradient_check": 5,
    "graphc.finite_difference": 5,
    "graphc.verdict": 5,
    "graphc.value_check": 5,
    "graphc.graph_function": 5,
    "graphc.checking": 5,
    "graphc.mat_model": 5,
    "graphc.mat_check": 5,
    "graphc.weight_files": 5,
    "graphc.training_step": 4,
    "graphc.training_event": 1,
    "graphc.training_net": 5,
    "graphc.solver": 5,
    "graphc.graph_call": 5,
    "graphc.graph_lowering": 5,
    "graphc.collector": 1,
    "graphc.loss_budget": 5,
    "graphc.mat_call": 5,
    "graphc.sources": 5,
    "graphc.function_call": 5,
    "graphc.vl": 5,
    "graphc.dagnn": 5,
    "graphc.dag_run": 5,
    "graphc.dag_struct": 5,
    "graphc.remaining": 5,
    "graphc.simple_net": 5,
    "graphc.simple_run": 5,
    "graphc.bench": 5,
    "graphc.lowered": 5,
    "graphc.lowering": 5,
    "graphc.compilation_cache": 5,
    "graphc.stopwatch": 1,
    "graphc.report": 5,
    "graphc.summary": 5,
    "graphc.answers": 5,
    "graphc.code_remarks": 5,
    "graphc.cli": 6,
}

# All that may know every floor. Every other module has its place in FLOORS.
TOP = ("graphc", "graphc.__main__")

# Within the floors: who may never import whom.
FORBIDDEN = [
    ("graphc.passes", "graphc.ops"),
    ("graphc.passes", "graphc.kernel"),
    ("graphc.ir", "graphc.runtime"),
    ("graphc.codegen", "graphc.ops"),
    ("graphc.codegen", "graphc.passes"),
    ("graphc.codegen", "graphc.frontends"),
    ("graphc.codegen.cuda", "graphc.codegen.llvm"),
    ("graphc.codegen.llvm", "graphc.codegen.cuda"),
    ("graphc.frontends", "graphc.codegen"),
    ("graphc.runtime", "graphc.ir"),
    ("graphc.ops", "graphc.plan"),
    ("graphc.frontends.caffe", "graphc.frontends.matconvnet"),
    ("graphc.frontends.matconvnet", "graphc.frontends.caffe"),
    ("graphc.report", "graphc.net"),
    ("graphc.report", "graphc.driver"),
    ("graphc.report", "graphc.frontends"),
]

# Third-party library -> the only places that may import it.
DOORS = {
    "scipy": ("graphc.frontends.matconvnet.mat_write",),
    "networkx": ("graphc.ir.graph",),
    "llvmlite": ("graphc.codegen.llvm",),
    "google": ("graphc.frontends.caffe",),
    "pycuda": ("graphc.runtime.cuda",),
    "cuda": ("graphc.runtime.cuda_graph",),
    "typer": ("graphc.cli",),
    "click": ("graphc.cli",),
    "rich": ("graphc.cli.report",),
    "torch": ("graphc.bench",),
    "PIL": ("graphc.picture",),
    "lmdb": ("graphc.frontends.caffe.database",),
    "h5py": ("graphc.frontends.caffe.hdf5", "graphc.frontends.matconvnet.mat_hdf5"),
    "matplotlib": ("graphc.bench.loss_picture",),
    "numpy": ("graphc",),
}


def module_name(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def inside(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def floor(module: str) -> int:
    names = [name for name in FLOORS if inside(module, name)]
    return FLOORS[max(names, key=len)]


def imports(path: Path) -> list[str]:
    """Modules a file imports, also inside functions, but not for type checking alone."""
    tree = ast.parse(path.read_text())
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            skipped.update(id(inner) for child in node.body for inner in ast.walk(child))
    found = []
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            module = node.module or ""
            for alias in node.names:
                inner = PACKAGE.parent / Path(*module.split("."), alias.name)
                is_module = inner.with_suffix(".py").exists() or inner.is_dir()
                found.append(f"{module}.{alias.name}" if is_module else module)
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


def test_there_are_files_to_check() -> None:
    assert len(FILES) > 300


def test_every_module_has_a_floor_and_every_floor_a_module() -> None:
    modules = {module_name(path) for path in FILES}
    assert not {
        m for m in modules - set(TOP) if not any(inside(m, f) for f in FLOORS if f != TOP[0])
    }
    assert not {name for name in FLOORS if not any(inside(m, name) for m in modules)}


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_go_down(path: Path) -> None:
    module = module_name(path)
    for imported in imports(path):
        if inside(imported, "graphc"):
            assert floor(imported) <= floor(module), f"{module} imports {imported}, which is above"
            for low, high in FORBIDDEN:
                assert not (inside(module, low) and inside(imported, high)), (
                    f"{module} may not import {imported}"
                )
        library = imported.partition(".")[0]
        if library != "graphc" and library not in sys.stdlib_module_names:
            assert library in DOORS, f"{module} imports {library}, which has no door"
            assert any(inside(module, door) for door in DOORS[library]), (
                f"{module} imports {library}, whose door is {', '.join(DOORS[library])}"
            )


def test_the_links_lead_into_the_package() -> None:
    for name in ("codegen", "runtime"):
        assert (ROOT / name).resolve() == PACKAGE / name
