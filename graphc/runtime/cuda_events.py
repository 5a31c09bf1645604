"""The GPU's clock, read between the steps of a call.

An event notes the time at which the GPU comes to it. Inside of a captured graph only NVIDIA's own
bindings can place one; there the processor does not hold the steps up. Without a graph steps may
wait for their launches, and small ones then seem to take longer.
"""

from __future__ import annotations

import itertools
from typing import Any, Protocol

from graphc.runtime.cuda_graph import GraphCapture


class Events(Protocol):
    """Some places in a stream."""

    def record(self, number: int) -> None:
        """Place event `number` behind what was issued so far."""

    def seconds(self) -> list[float]:
        """The times between neighbours, after all of them have happened."""


def make_events(graphs: GraphCapture, driver: Any, stream: Any, count: int) -> Events:
    """`count` events on a stream."""
    if graphs.bindings is None:
        return _StreamEvents(driver, stream, count)
    return _GraphEvents(graphs, count)


class _StreamEvents:
    """pycuda's."""

    def __init__(self, driver: Any, stream: Any, count: int):
        self._stream = stream
        self._events = [driver.Event() for _ in range(count)]

    def record(self, number: int) -> None:
        self._events[number].record(self._stream)

    def seconds(self) -> list[float]:
        return [a.time_till(b) / 1e3 for a, b in itertools.pairwise(self._events)]


class _GraphEvents:
    """Those of NVIDIA's bindings, which become nodes of a graph that is captured."""

    def __init__(self, graphs: GraphCapture, count: int):
        self._graphs = graphs
        self._events = [graphs.ask("cuEventCreate", 0) for _ in range(count)]

    def record(self, number: int) -> None:
        flags = self._graphs.bindings.CUevent_record_flags
        is_captured = self._graphs.is_capturing
        flag = flags.CU_EVENT_RECORD_EXTERNAL if is_captured else flags.CU_EVENT_RECORD_DEFAULT
        self._graphs.ask(
            "cuEventRecordWithFlags", self._events[number], self._graphs.handle, int(flag)
        )

    def seconds(self) -> list[float]:
        pairs = itertools.pairwise(self._events)
        return [float(self._graphs.ask("cuEventElapsedTime", a, b)) / 1e3 for a, b in pairs]
