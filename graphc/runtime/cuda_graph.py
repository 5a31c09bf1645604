"""Work on a stream, captured once as a CUDA graph and replayed: one launch in place of many.

pycuda knows no graphs; NVIDIA's cuda-bindings do, on the same stream. Without them work is issued
step by step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphc.error import NetError

MOST_GRAPHS = 16  # kept for one program; which arrays move makes a difference


class GraphCapture:
    """Captures what is issued on one stream and replays it, by key.

    Attributes:
        handle: the stream's.
        bindings: cuda.bindings.driver; None where it is missing, and nothing is captured.
        is_capturing: whether what is issued now becomes part of a graph.
    """

    def __init__(self, stream: Any):
        self.handle = stream.handle
        self.bindings = _bindings()
        self.is_capturing = False
        self._graphs: dict[object, Any] = {}
        self._seen: set[object] = set()

    def run(self, key: object, issue: Callable[[], None]) -> None:
        """What `issue` puts on the stream: once as it is, then captured, then replayed.

        The work of one key must use the same memory each time, up to the next `forget`.
        """
        if self.bindings is None or key not in self._seen:
            self._seen.add(key)
            issue()
            return
        if key not in self._graphs:
            if len(self._graphs) >= MOST_GRAPHS:
                self.ask("cuGraphExecDestroy", self._graphs.pop(next(iter(self._graphs))))
            self._graphs[key] = self._capture(issue)
        self.ask("cuGraphLaunch", self._graphs[key], self.handle)

    def forget(self) -> None:
        """Drop all graphs."""
        for graph in self._graphs.values():
            self.ask("cuGraphExecDestroy", graph)
        self._graphs.clear()
        self._seen.clear()

    def _capture(self, issue: Callable[[], None]) -> Any:
        assert self.bindings is not None
        mode = self.bindings.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self.ask("cuStreamBeginCapture", self.handle, mode)
        self.is_capturing = True
        try:
            issue()
        finally:
            self.is_capturing = False
            graph = self.ask("cuStreamEndCapture", self.handle)
        made = self.ask("cuGraphInstantiate", graph, 0)
        self.ask("cuGraphDestroy", graph)
        return made

    def ask(self, function: str, *arguments: Any) -> Any:
        """Call the driver. Raises NetError where it refuses."""
        status, *results = getattr(self.bindings, function)(*arguments)
        if int(status) != 0:
            raise NetError(f"{function} fails on the GPU: {status}")
        return results[0] if results else None


def _bindings() -> Any:
    try:
        from cuda.bindings import driver
    except ImportError:
        return None
    return driver
