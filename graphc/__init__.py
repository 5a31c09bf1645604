"""graphc compiles neural-network definitions, and their backward pass, into native programs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from graphc.error import NetError, NetWarning
from graphc.phase import TEST, TRAIN

if TYPE_CHECKING:
    from graphc.artifact import load
    from graphc.dagnn import DagNet
    from graphc.net import Net
    from graphc.simple_net import SimpleNet, simplenn
    from graphc.solver import Solver

__version__ = "0.1.0"
__all__ = [
    "TEST", "TRAIN", "DagNet", "Net", "NetError", "NetWarning", "SimpleNet", "Solver",
    "__version__", "load", "simplenn",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Load the compiler when it is first asked for; `import graphc` alone stays quick."""
    if name == "Net":
        from graphc.net import Net

        return Net
    if name == "Solver":
        from graphc.solver import Solver

        return Solver
    if name == "load":
        from graphc.artifact import load

        return load
    if name == "DagNet":
        from graphc.dagnn import DagNet

        return DagNet
    if name in ("SimpleNet", "simplenn"):
        from graphc import simple_net

        return getattr(simple_net, name)
    if name in ("dagnn", "vl"):
        return importlib.import_module(f"graphc.{name}")
    raise AttributeError(f"module 'graphc' has no attribute '{name}'")
