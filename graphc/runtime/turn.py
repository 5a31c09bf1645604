"""What works on one set of arrays runs one call at a time.

A second call is refused at once. It does not wait: what the first one returned are the very arrays
that it would write, and whoever reads them would find the wrong numbers.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from threading import get_ident
from typing import Any, ParamSpec, TypeVar

from graphc.error import NetError

Given = ParamSpec("Given")
Made = TypeVar("Made")
_TURN = 0


class Turn:
    """Whether an object is in a call, and whose; methods that take turns have it as `self._turn`.

    Attributes:
        free: has an entry while there is no call. Whoever takes it out has the turn: that is one
            instruction, into which neither another thread nor control-C can come, as it could
            behind a lock's `acquire`.
        thread, method: of the call.
    """

    __slots__ = ("free", "instead", "kind", "method", "thread")

    def __init__(self, kind: str, instead: str):
        """`kind` of object, and what to do instead, as a sentence without a full stop."""
        self.kind, self.instead = kind, instead
        self.free = {_TURN: True}
        self.thread, self.method = 0, ""

    def refusal(self, asked: str) -> NetError:
        """Why the method `asked` cannot be called now."""
        thread, running = self.thread, self.method or "another call"
        called = f"{asked} was called while {running} of the same {self.kind} runs"
        if thread == get_ident():
            return NetError(
                f"{called}, by what that runs: a call cannot be inside of another one, both would"
                " work on the same arrays"
            )
        names = [f" in thread '{t.name}'" for t in threading.enumerate() if t.ident == thread]
        return NetError(
            f"{called}{''.join(names)}: both would work on the same arrays; {self.instead}"
        )


def one_at_a_time(method: Callable[Given, Made]) -> Callable[Given, Made]:
    """A method that raises NetError while its object is in a call of a method like this."""
    return _taking_turns(method, nests=False)


def one_thread_at_a_time(method: Callable[Given, Made]) -> Callable[Given, Made]:
    """The same for a method that may be called by what another one runs, in the same thread."""
    return _taking_turns(method, nests=True)


def _taking_turns(method: Callable[Given, Made], nests: bool) -> Callable[Given, Made]:
    name = method.__name__.lstrip("_")

    @functools.wraps(method)
    def called(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        self: Any = args[0]
        turn: Turn = self._turn
        try:
            del turn.free[_TURN]
        except KeyError:
            if nests and turn.thread == get_ident():
                return method(*args, **kwargs)
            raise turn.refusal(name) from None
        try:
            turn.thread, turn.method = get_ident(), name
            return method(*args, **kwargs)
        finally:  # without a call, at which control-C could be raised
            turn.thread = 0
            turn.free[_TURN] = True

    return called
