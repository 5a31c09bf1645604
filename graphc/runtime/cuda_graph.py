"""Work on a stream, captured once as a CUDA graph and replayed: one launch in place of many.

pycuda knows no graphs; NVIDIA's cuda-bindings do, on the same stream. Without them work is issued
step by step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphc.error import NetError


class GraphCapture:
    """Captures what is issued on one stream and replays it, by key."""

    def __init__(self, stream: Any):
        self._handle = stream.handle
        self._driver = _bindings()
        self._graphs: dict[object, Any] = {}
        self._seen: set[object] = set()

    def run(self, key: object, issue: Callable[[], None]) -> None:
        """What `issue` puts on the stream: once as it is, then captured, then replayed.

        The work of one key must use the same memory each time.
        """
        if self._driver is None or key not in self._seen:
            self._seen.add(key)
            issue()
            return
        if key not in self._graphs:
            self._graphs[key] = self._capture(issue)
        self._ask("cuGraphLaunch", self._graphs[key], self._handle)

    def _capture(self, issue: Callable[[], None]) -> Any:
        assert self._driver is not None
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._ask("cuStreamBeginCapture", self._handle, mode)
        try:
            issue()
        finally:
            graph = self._ask("cuStreamEndCapture", self._handle)
        made = self._ask("cuGraphInstantiate", graph, 0)
        self._ask("cuGraphDestroy", graph)
        return made

    def _ask(self, function: str, *arguments: Any) -> Any:
        """Call the driver. Raises NetError where it refuses."""
        status, *results = getattr(self._driver, function)(*arguments)
        if int(status) != 0:
            raise NetError(f"{function} fails on the GPU: {status}")
        return results[0] if results else None


def _bindings() -> Any:
    try:
        from cuda.bindings import driver
    except ImportError:
        return None
    return driver
