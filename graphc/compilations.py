"""The signatures that a net is called with, each built and compiled once."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from graphc import driver
from graphc.back_ends import back_end, need_library_choice
from graphc.call_arguments import as_names
from graphc.driver import Compilation, Signature
from graphc.error import need
from graphc.frontends.caffe.definition import NetDefinition
from graphc.frontends.caffe.network import CaffeNet
from graphc.gradient_request import request
from graphc.phase import TEST, TRAIN, Phase
from graphc.plan.budget import Memory, memory_mode
from graphc.plan.permission import allowed
from graphc.runtime.cpu import WorkingMemory, usable_cores


def checked_signature(
    *,
    phase: Phase,
    keep: Iterable[str],
    threads: int | None,
    fuse: bool,
    blockwise_loss: bool,
    memory: Memory | str,
    dtype: str,
    masks: Sequence[str],
    infogain_input: str,
    target: str,
    exact: bool,
    fast_math: Sequence[str],
    libraries: str,
) -> Signature:
    """The signature of a forward pass by a user's options, which are those of `graphc.Net`.

    Raises NetError for one that is wrong.
    """
    need(phase in (TRAIN, TEST), f"phase is TRAIN or TEST, not {phase!r}")
    need(dtype in ("float32", "float64"), f"dtype is float32 or float64, not {dtype!r}")
    need(
        infogain_input in ("scores", "probabilities"),
        f"infogain_input is 'scores' or 'probabilities', not {infogain_input!r}",
    )
    back_end(target)
    need_library_choice(libraries)
    fast_math = as_names(fast_math, "fast_math")
    allowed(exact, fast_math)
    return Signature(
        phase=phase,
        keep=as_names(keep, "keep"),
        memory=memory_mode(memory),
        fuse=fuse,
        blockwise_loss=blockwise_loss,
        dtype=dtype,
        masks=as_names(masks, "masks"),
        infogain_input=infogain_input,
        target=target,
        threads=thread_count(threads),
        exact=bool(exact),
        fast_math=fast_math,
        libraries=libraries,
    )


def thread_count(threads: int | None) -> int:
    """How many threads a call uses; None: all usable cores. Raises NetError for a wrong number."""
    need(
        threads is None or (is_whole(threads) and 1 <= threads <= 256),
        f"threads is a whole number from 1 to 256, or None, not {threads!r}",
    )
    return usable_cores() if threads is None else int(threads)


def is_whole(number: object) -> bool:
    """Whether it is an integer of Python's or numpy's, and no bool."""
    return isinstance(number, (int, np.integer)) and not isinstance(number, bool)


def keeping(signature: Signature, blobs: Iterable[str]) -> Signature:
    """The signature, with more blobs to be read after the call."""
    blobs = tuple(blobs)
    if set(blobs) <= set(signature.keep):
        return signature
    return replace(signature, keep=driver.names([*signature.keep, *blobs]))


@functools.lru_cache(maxsize=256)
def accumulating(signature: Signature, accumulate: bool) -> Signature:
    """The signature, with parameter gradients that are added to what is there, or are not.

    The same one each time: asked for at every call, and what is compiled is looked up by it.
    """
    if signature.accumulate == accumulate:
        return signature
    return replace(signature, accumulate=accumulate)


_Shapes = tuple[tuple[str, tuple[int, ...]], ...]


class Compilations:
    """What was built and compiled of one net.

    Attributes:
        definition: the net.
        base: the signature of a forward pass as the user's options say, without shapes.
        shapes: of the net inputs and of what Filter layers let pass, as they are now.
        made: what is compiled.
        working_memory: of all that is compiled of the whole net: no call reads in it what another
            program has left there.
    """

    def __init__(
        self, definition: NetDefinition, base: Signature, shapes: Mapping[str, Sequence[int]]
    ):
        self.definition = definition
        self.base = base
        self.shapes: dict[str, tuple[int, ...]] = {n: tuple(s) for n, s in shapes.items()}
        self.made: dict[Signature, Compilation] = {}
        self.working_memory = WorkingMemory()
        # Asked for at every call, and slow to make.
        self._fronts: dict[Signature, CaffeNet] = {}
        self._asked: dict[Signature, Signature] = {}  # of the front end
        self._signatures: dict[tuple[object, ...], Signature] = {}
        self._sorted: tuple[dict[str, tuple[int, ...]], _Shapes] = ({}, ())

    def front(self) -> CaffeNet:
        """The net as the front end builds it for the shapes of now."""
        return self.front_of(self.signature())

    def settle(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Note the shapes that the front end has given to all inputs."""
        front = self.front()
        self.shapes = dict(shapes)
        self._fronts[driver.front_signature(self.signature())] = front

    def front_of(self, signature: Signature) -> CaffeNet:
        """The net, or the part of it, as the front end builds it for a signature."""
        if signature not in self._asked:
            self._asked[signature] = driver.front_signature(signature)
        asked = self._asked[signature]
        if asked not in self._fronts:
            self._fronts[asked] = driver.front(self.definition, asked)
        return self._fronts[asked]

    def _shared_front(self, signature: Signature) -> CaffeNet | None:
        """What the front end builds for a signature; None where every program has its own: Python
        layers remember what they have been told of shapes."""
        if any(layer.type == "Python" for layer in self.definition.layers):
            return None
        return self.front_of(signature)

    def signature(self, **changed: Any) -> Signature:
        """That of a forward pass for the shapes of now, with changed fields."""
        shapes = self._shapes()
        key = (shapes, *changed.items())
        if key not in self._signatures:
            self._signatures[key] = replace(self.base, shapes=shapes, **changed)
        return self._signatures[key]

    def _shapes(self) -> _Shapes:
        """The shapes of now; they are sorted anew where some have changed."""
        if self.shapes != self._sorted[0]:
            self._sorted = dict(self.shapes), tuple(sorted(self.shapes.items()))
        return self._sorted[1]

    def default(self) -> Signature:
        """The one with gradients for what Caffe's rule says."""
        front = self.front()
        return self.signature(
            given=tuple(front.seeds) if front.default_wrt else (), wrt=tuple(front.default_wrt)
        )

    def backward(
        self, gradients: Mapping[str, Any], **asked: Any
    ) -> tuple[Signature, tuple[str, ...]]:
        """What a backward call compiles, and the names it returns; see `gradient_request`."""
        wish = request(self.front(), gradients=gradients, **asked)
        made = self.signature(given=wish.given, wrt=wish.wanted, start=wish.start)
        return made, wish.returned

    def compiled(self, signature: Signature) -> Compilation:
        """Ready to run."""
        if signature not in self.made:
            front = self._shared_front(signature)
            made = self.made[signature] = driver.compile_net(self.definition, signature, front)
            # A part of the net runs between a forward pass of the whole and its backward pass.
            if made.executable and signature.only == (None, None):
                made.executable.working_memory = self.working_memory
        return self.made[signature]

    def planned(self, signature: Signature) -> Compilation:
        """The stages up to the plan; code is made for no more than this."""
        return self.made.get(signature) or driver.lower(
            self.definition, signature, caffe=self._shared_front(signature)
        )
