"""What `graphc.load` makes of a bundle without steps of training."""

from __future__ import annotations

from graphc.runtime.bundle import Tables
from graphc.runtime.cpu import Executable, Functions
from graphc.runtime.turn import Turn, one_at_a_time


class LoadedProgram(Executable):
    """An Executable whose user need not see to it that it runs one call at a time.

    A call of another thread meanwhile is refused with NetError.
    """

    def __init__(self, bundle: Tables, functions: Functions):
        super().__init__(bundle, functions)
        self._turn = Turn("bundle", "load the bundle once for each thread")

    call = one_at_a_time(Executable.call)
    step = one_at_a_time(Executable.step)
    timed_call = one_at_a_time(Executable.timed_call)
