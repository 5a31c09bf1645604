"""One table of arrays for the two programs of an iteration that has several passes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from graphc.error import NetError
from graphc.runtime.bundle import Bundle


def merged(
    last: Bundle,
    values: Mapping[str, np.ndarray],
    earlier: Bundle,
    earlier_values: Mapping[str, np.ndarray],
) -> tuple[Bundle, Bundle, dict[str, np.ndarray]]:
    """The tables of two programs that share their arrays: those of `last` with what `earlier` needs
    besides, `earlier` by its names in them, and the constants of both.

    Raises NetError where an array of one name has two shapes.
    """
    known = {slot.name: slot for slot in last.slots}
    constants = dict(values)
    slots, renamed = list(last.slots), []
    for slot in earlier.slots:
        name = slot.name
        if slot.role == "constant":
            while name in known and not np.array_equal(constants[name], earlier_values[slot.name]):
                name += "~pass"
            constants[name] = earlier_values[slot.name]
        own = replace(slot, name=name)
        renamed.append(own)
        if name not in known:
            known[name] = own
            slots.append(own)
        elif (known[name].dtype, known[name].shape) != (slot.dtype, slot.shape) and name != "arena":
            raise NetError(f"two programs of one iteration disagree about '{name}'")
    both = replace(
        last,
        slots=tuple(slots),
        arena_bytes=max(last.arena_bytes, earlier.arena_bytes),
        checks=(*last.checks, *earlier.checks),
    )
    return both, replace(earlier, slots=tuple(renamed)), constants
