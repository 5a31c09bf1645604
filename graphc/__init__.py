"""graphc compiles neural-network definitions, and their backward pass, into native programs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from graphc.collector import resting
from graphc.error import NetError, NetWarning
from graphc.phase import TEST, TRAIN

if TYPE_CHECKING:
    from graphc.artifact import load
    from graphc.checking import check
    from graphc.dagnn import DagNet
    from graphc.ir.op import Example, Op, operator
    from graphc.net import Net
    from graphc.ops.elementwise import Map
    from graphc.plan.budget import BudgetError
    from graphc.simple_net import SimpleNet, simplenn
    from graphc.solver import Solver

__version__ = "0.1.0"
__all__ = [
    "TEST", "TRAIN", "BudgetError", "DagNet", "Example", "Map", "Net", "NetError", "NetWarning",
    "Op", "SimpleNet", "Solver", "__version__", "check", "load", "operator", "simplenn",
]  # fmt: skip

# Where each name comes from; it is loaded when it is first asked for.
_HOMES = {
    "BudgetError": "graphc.plan.budget",
    "Net": "graphc.net",
    "Solver": "graphc.solver",
    "load": "graphc.artifact",
    "check": "graphc.checking",
    "DagNet": "graphc.dagnn",
    "SimpleNet": "graphc.simple_net",
    "simplenn": "graphc.simple_net",
    "Map": "graphc.ops.elementwise",
    "Op": "graphc.ir.op",
    "Example": "graphc.ir.op",
    "operator": "graphc.ir.op",
}
_MODULES = ("dagnn", "vl")


def __getattr__(name: str) -> Any:
    """Load the compiler when it is first asked for; `import graphc` alone stays quick."""
    if name in _MODULES:
        return importlib.import_module(f"graphc.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'graphc' has no attribute '{name}'")
    with resting():
        if _HOMES[name] == "graphc.ir.op":
            importlib.import_module("graphc.ops")  # taken names, and gradients from kernels
        return getattr(importlib.import_module(_HOMES[name]), name)
