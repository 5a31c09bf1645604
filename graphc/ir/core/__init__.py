"""The core operators: the few whose names passes may use.

Shapes must be equal where nothing else is said; nothing is broadcast silently. Whatever a front end
or a gradient needs to spread or add up is written with Broadcast and Sum, so every one of these
gradients is one line. Importing this package enters every one in the registry.
"""

from __future__ import annotations

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
