"""Machine code of modules, made by other threads while the next text is emitted.

LLVM may work in several threads at once where each has a context and a target machine of its own
(see `threaded`).
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from types import TracebackType

from graphc.codegen.llvm.target import Target
from graphc.codegen.llvm.threaded import machine_code
from graphc.runtime.cpu import usable_cores

MOST_THREADS = 16


class ObjectMaker:
    """Makes an object of each text that is added, in the order in which they are added.

    Used in a `with`: behind it no thread works any more, whatever happened. An error in a thread is
    raised by `objects`; of several, that of the first text.

    A thread ends when no text waits, and another begins with the next: there is none to be woken.
    """

    def __init__(self, target: Target):
        self._target = target
        self._waiting: deque[tuple[int, str]] = deque()
        self._count = 0
        self._made: dict[int, bytes] = {}
        self._errors: dict[int, Exception] = {}
        self._helpers: list[threading.Thread] = []
        self._most_helpers = min(MOST_THREADS, usable_cores()) - 1

    def __enter__(self) -> ObjectMaker:
        return self

    def add(self, text: str) -> None:
        """Take a module's text."""
        self._waiting.append((self._count, text))
        self._count += 1
        self._helpers = [helper for helper in self._helpers if helper.is_alive()]
        if len(self._helpers) < self._most_helpers:
            helper = threading.Thread(target=self._work, name="graphc-objects")
            self._helpers.append(helper)
            with contextlib.suppress(RuntimeError):  # there is no thread to be had: others do it
                helper.start()

    def objects(self) -> tuple[bytes, ...]:
        """All objects, the caller helping to make them."""
        self._work()
        self._join()
        if self._errors:
            raise self._errors[min(self._errors)]
        return tuple(self._made[number] for number in range(self._count))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._waiting.clear()
        self._join()

    def _work(self) -> None:
        """Make objects until there is no text left."""
        machine = None
        while True:
            try:
                number, text = self._waiting.popleft()
            except IndexError:
                return
            try:
                machine = machine or self._target.machine(position_independent=True)
                self._made[number] = machine_code(text, machine)
            except Exception as error:  # whatever it is, `objects` raises it
                self._errors[number] = error
                self._waiting.clear()

    def _join(self) -> None:
        for helper in self._helpers:
            if helper.is_alive():
                helper.join()
