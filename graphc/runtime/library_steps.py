"""Which steps of a program a library does, and doing them.

A step that a library could do is tried both ways when it is first to run, unless its shape was
tried before on such a GPU with this version of the library and of the code; the faster way is
taken, and a library's only where its results agree with those of the generated kernel.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphc.error import NetError, need
from graphc.runtime import library_cache
from graphc.runtime.cublaslt import CublasLt
from graphc.runtime.cudnn import Cudnn
from graphc.runtime.launch import (
    LIBRARY_MEMORY,
    CudaBundle,
    LibraryChoice,
    LibraryStep,
    Reference,
)
from graphc.runtime.library_cache import Finding
from graphc.runtime.library_call import CUBLASLT, CUDNN
from graphc.runtime.library_trial import (
    ALIGNMENT,
    TOLERANCES,
    Start,
    Trial,
    difference,
    rounded_up,
    run_library,
)
from graphc.runtime.shared_library import LibraryError, open_library

ROOM = 64 << 20  # bytes of workspace that an algorithm may want
WORTH_IT = 0.97  # a library's time, as a part of the kernel's, from which on it is taken
_OPENERS: dict[str, Any] = {CUBLASLT: CublasLt, CUDNN: Cudnn}


@functools.cache
def is_any_installed() -> bool:
    """Whether there is a library to try at all."""
    return any(open_library(name) is not None for name in _OPENERS)


@functools.cache
def opened(name: str) -> Any:
    """A library with a handle for the GPU; a sentence on why there is none."""
    loaded = open_library(name)
    if loaded is None:
        return f"{name} is not installed"
    try:
        return _OPENERS[name](loaded)
    except LibraryError as error:
        return f"{name} cannot be used: {error}"


def library_choice(asked: str) -> LibraryChoice:
    """What was asked for, "off" where no library is installed.

    Raises NetError where one must be used.
    """
    if asked == "off":
        return "off"
    if is_any_installed():
        return "on" if asked == "on" else "auto"
    need(
        asked == "auto",
        "libraries='on' needs cuBLASLt or cuDNN, and neither is installed;"
        " pip install nvidia-cublas-cu12 nvidia-cudnn-cu12",
    )
    return "off"


class LibrarySteps:
    """The library steps of one program.

    Attributes:
        decisions: (layer, sentence) on each that was decided.
        memory_bytes: for copies of operands, sums and workspaces, beside the arena.
    """

    def __init__(self, bundle: CudaBundle, driver: Any, stream: Any, start: Start):
        self.decisions: list[tuple[str, str]] = []
        self.memory_bytes = 0
        self._bundle, self._driver, self._stream, self._start = bundle, driver, stream, start
        self._memory: Any = None
        self._decided: set[int] = set()
        self._taken: dict[int, Any] = {}
        self._findings: dict[str, Finding] = {}

    def __contains__(self, number: int) -> bool:
        return number in self._taken

    def decide(self, numbers: range) -> bool:
        """Try what is new of these steps. Whether the memory of library steps is another now.

        Raises what the driver raises of kernels, NetError where a library must be used and fails.
        """
        needed: dict[int, int] = {}
        for number in numbers:
            step = self._bundle.libraries.get(number)
            if step is None or number in self._decided:
                continue
            self._decided.add(number)
            prepared = self._choose(number, step)
            if prepared is not None:
                self._taken[number] = prepared
                needed[number] = rounded_up(step.memory_bytes) + prepared.workspace_bytes
        most = max(needed.values(), default=0)
        if most <= self.memory_bytes:
            return False
        try:
            self._memory = self._driver.mem_alloc(most)
        except self._driver.Error as error:
            for number in (number for number, size in needed.items() if size > self.memory_bytes):
                del self._taken[number]
                said = (
                    f"is a generated kernel after all: no {most} bytes for library steps: {error}"
                )
                entry = self._bundle.steps[number]
                self.decisions.append((entry.layer, f"{entry.kernel} {said}"))
            return False
        self.memory_bytes = most
        return True

    def run(self, number: int, arguments: Sequence[int]) -> None:
        """Put a step on the stream. Raises NetError where the library refuses it."""
        step = self._bundle.libraries[number]
        memory = int(self._memory) if self._memory is not None else 0
        try:
            run_library(
                step, self._taken[number], self._start, arguments, memory, self._stream.handle
            )
        except LibraryError as error:
            raise NetError(f"{self._owner(number)}: {error}") from None

    def _owner(self, number: int) -> str:
        layer = self._bundle.steps[number].layer
        return f"layer '{layer}'" if layer else f"'{self._bundle.name}'"

    # -- the choice --

    def _choose(self, number: int, step: LibraryStep) -> Any:
        """What runs the step, or None for the generated kernel; a decision says why."""
        library = opened(step.call.library)
        entry = self._bundle.steps[number]
        if isinstance(library, str):
            self.decisions.append((entry.layer, f"{entry.kernel} is a generated kernel: {library}"))
            return None
        try:
            candidates = library.candidates(step.call, self._alignments(number, step), ROOM)
            name = _key(step, library, self._driver, self._bundle.library_choice)
            finding = self._findings.get(name) or library_cache.read(name)
            known = {one.number: one for one in candidates}
            if finding is None or (finding.taken and finding.algorithm not in known):
                finding = self._try(number, step, candidates)
                library_cache.write(name, finding)
            self._findings[name] = finding
        except NetError as error:
            if self._bundle.library_choice == "on":
                raise NetError(f"{self._owner(number)}: {error}") from None
            self.decisions.append((entry.layer, f"{entry.kernel} is a generated kernel: {error}"))
            return None
        except self._driver.Error as error:
            said = f"{entry.kernel} is a generated kernel: {library.name} was not tried: {error}"
            self.decisions.append((entry.layer, said))
            return None
        self.decisions.append((entry.layer, f"{entry.kernel} {_said(finding, library.name)}"))
        return known[finding.algorithm] if finding.taken else None

    def _alignments(self, number: int, step: LibraryStep) -> list[int]:
        """Of the call's operands: the largest power of two that divides each address."""
        places = self._bundle.launches[number].places

        def of(reference: Reference) -> int:
            own = reference.argument == LIBRARY_MEMORY
            begin = 0 if own else places[reference.argument][1]
            return math.gcd(ALIGNMENT, begin + reference.offset)

        return [of(reference) for reference in step.operands]

    def _try(self, number: int, step: LibraryStep, candidates: Sequence[Any]) -> Finding:
        """Run the step both ways on memory of its own."""
        if not candidates:
            return Finding(False)
        launch = self._bundle.launches[number]
        offsets = [offset for _, offset in launch.places[: len(step.arguments)]]
        room = max(one.workspace_bytes for one in candidates)
        trial = Trial(self._driver, step, launch, offsets, room)
        own = [*trial.arguments]
        if len(launch.places) > len(own):  # scratch memory of sums in parts
            scratch = self._driver.mem_alloc(self._bundle.arena_bytes - launch.places[-1][1])
            own.append(int(scratch))

        def generated() -> None:
            self._start(launch, own)

        wanted = trial.results(generated)
        if self._bundle.library_choice == "on":
            return self._best(step, trial, candidates, wanted, None)
        return self._best(step, trial, candidates, wanted, trial.seconds(self._stream, generated))

    def _best(
        self,
        step: LibraryStep,
        trial: Trial,
        candidates: Sequence[Any],
        wanted: Sequence[np.ndarray],
        generated: float | None,
    ) -> Finding:
        """The fastest right candidate against the kernel's time; the first one, where no time of
        the kernel's is given. Raises NetError where the library refuses all.
        """
        best: Finding | None = None
        gap = 0.0
        refused: NetError | None = None
        for one in candidates:
            issue = functools.partial(self._issue, step, one, trial)
            try:
                error = difference(wanted, trial.results(issue))
                if error > _tolerance(step):
                    gap = error
                    continue
                spent = 0.0 if generated is None else trial.seconds(self._stream, issue)
            except NetError as reason:
                refused = reason
                continue
            size = one.workspace_bytes
            if generated is None:
                return Finding(True, one.number, size, error=error)
            if best is None or spent < best.called:
                is_taken = spent < WORTH_IT * generated
                best = Finding(is_taken, one.number, size, generated, spent, error)
        if best is None and refused is not None and not gap:
            raise refused
        return best or Finding(False, error=gap)

    def _issue(self, step: LibraryStep, prepared: Any, trial: Trial) -> None:
        stream = self._stream.handle
        run_library(step, prepared, self._start, trial.arguments, trial.memory, stream)


def outlook(bundle: CudaBundle, driver: Any) -> list[tuple[str, str]]:
    """(layer, sentence) on every step that a library could do, nothing being tried.

    driver: pycuda's with a GPU, whose earlier findings count; None where there is none.
    """
    found = []
    for number, step in bundle.libraries.items():
        entry, name = bundle.steps[number], step.call.library
        library = None if driver is None else opened(name)
        if open_library(name) is None:
            said = f"could run as a call of {name}, which is not installed"
        elif library is None or isinstance(library, str):
            said = f"could run as a call of {name}, which a GPU's first call would try"
        else:
            known = library_cache.read(_key(step, library, driver, bundle.library_choice))
            said = f"could run as a call of {name}; the first call will try both ways"
            said = said if known is None else _said(known, name)
        found.append((entry.layer, f"{entry.kernel} {said}"))
    return found


def _key(step: LibraryStep, library: Any, driver: Any, choice: LibraryChoice) -> str:
    """What a finding depends on."""
    gpu = driver.Device(0)
    return library_cache.key(
        step.digest,
        library.name,
        library.version,
        gpu.name(),
        gpu.compute_capability(),
        choice,
        sorted(TOLERANCES.items()),
    )


def _tolerance(step: LibraryStep) -> float:
    """How far results may be apart."""
    dtype = getattr(step.call, "dtype", "float32")
    return TOLERANCES["tf32" if step.call.tf32 else dtype]


def _said(finding: Finding, library: str) -> str:
    """The rest of a sentence about a kernel."""
    if finding.algorithm < 0 and finding.error:
        return (
            f"is a generated kernel: {library}'s result differs by {finding.error:.1e} of the"
            " largest number"
        )
    if finding.algorithm < 0:
        return f"is a generated kernel: {library} has no algorithm for it"
    agreed = f"the results agree within {finding.error:.1e} of the largest number"
    if not finding.called:
        return f"runs as a call of {library}, as was asked; {agreed}"
    ours, theirs = (f"{1e6 * seconds:.3g} us" for seconds in (finding.generated, finding.called))
    if finding.taken:
        return f"runs as a call of {library}: {theirs}, the generated kernel {ours}; {agreed}"
    return f"is a generated kernel: {ours}, a call of {library} {theirs}; {agreed}"
