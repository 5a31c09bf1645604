"""graphc compiles neural-network definitions, and their backward pass, into native programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graphc.error import NetError, NetWarning
from graphc.phase import TEST, TRAIN

if TYPE_CHECKING:
    from graphc.artifact import load
    from graphc.net import Net

__version__ = "0.1.0"
__all__ = ["TEST", "TRAIN", "Net", "NetError", "NetWarning", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Load the compiler when it is first asked for; `import graphc` alone stays quick."""
    if name == "Net":
        from graphc.net import Net

        return Net
    if name == "load":
        from graphc.artifact import load

        return load
    raise AttributeError(f"module 'graphc' has no attribute '{name}'")
