"""Load a bundle's machine code into this process."""

from __future__ import annotations

import ctypes
import itertools
import weakref
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm

from graphc.codegen.llvm.target import Target
from graphc.error import NetError, need
from graphc.runtime.bundle import ENTRIES, Bundle
from graphc.runtime.cpu import Executable, Functions

_numbers = itertools.count()


def load(bundle: Bundle, kind: type[Executable] = Executable) -> Executable:
    """A bundle ready to be called, as an object of this kind.

    Raises NetError where its code is for another machine.
    """
    host = Target.named("host")
    need(
        bundle.triple.split("-")[0] == host.triple.split("-")[0],
        f"'{bundle.name}' was compiled for {bundle.triple}, this machine is {host.triple}",
    )
    # Code for a machine that was detected uses all it has; a named target says what it needs.
    need(
        bundle.vector_bytes <= host.vector_bytes
        and (bundle.target != "host" or bundle.cpu == host.cpu),
        f"'{bundle.name}' was compiled for the processor {bundle.cpu}, this one is {host.cpu};"
        " compile it for a named target that both have, such as x86-64-v3",
    )
    host.machine()
    # JITLink puts an object's sections into one block: distances in it always fit 32 bits. From one
    # object to another there are only calls, and these it leads over addresses of 64 bits.
    engine = llvm.create_lljit_compiler(use_jit_link=True)
    library = llvm.JITLibraryBuilder().add_current_process()
    for code in bundle.objects:
        library.add_object_img(code)
    for entry in ENTRIES:
        library.export_symbol(entry)
    try:
        tracker = library.link(engine, f"program{next(_numbers)}")
    except RuntimeError as error:
        raise NetError(f"the machine code of '{bundle.name}' cannot be loaded: {error}") from None
    addresses = {entry: int(tracker[entry]) for entry in ENTRIES}
    keep: tuple[Any, ...] = (tracker, engine)
    functions = Functions(addresses, keep)
    # Threads may linger in the code: it is held until they were sent away.
    weakref.finalize(functions, _send_away, ctypes.CFUNCTYPE(None)(addresses["graphc_rest"]), keep)
    return kind(bundle, functions)


def _send_away(rest: Callable[[], None], keep: Any) -> None:
    rest()
