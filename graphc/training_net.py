"""The net of a solver: a Net whose calls also change its parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from graphc import driver
from graphc.arrays import real_numbers
from graphc.driver import Compilation
from graphc.error import NetError, need
from graphc.frontends.caffe.layer import COUNTER
from graphc.frontends.caffe.solver import SolverDefinition
from graphc.net import Net
from graphc.net_arrays import SEED_STEP
from graphc.runtime.cpu import aligned_zeros
from graphc.training_step import METHODS, RATE, Learned, UpdateRule, history_names


class TrainingNet(Net):
    """A net in its training phase, with the history of a solver's method.

    Gradients are consumed where they are made: after a step, `diff` of a parameter holds nothing of
    use.
    """

    def __init__(
        self,
        definition: SolverDefinition,
        weights: Any = None,
        keep: Iterable[str] = (),
        threads: int | None = None,
        memory: Literal["all", "reuse"] = "reuse",
        dtype: str = "float32",
    ):
        self._seed = (definition.seed or 0) % 2**32
        super().__init__(
            definition.net,
            weights=weights,
            phase=definition.net.phase,
            keep=keep,
            threads=threads,
            memory=memory,
            dtype=dtype,
            seed=self._seed,
        )
        self._solver = definition
        self._rate = self.arrays.extra[RATE] = aligned_zeros((), dtype)
        self._served: _Served | None = None
        self._advance: Callable[[], object] | None = None
        self._rule = _rule(self, definition)

    # -- what the user sees -----------------------------------------------------------------

    def step(self) -> None:
        """One iteration of the solver: one native call, or iter_size calls where that is set."""
        need(self._advance is not None, "this net belongs to no solver")
        assert self._advance is not None
        self._advance()

    def set_input_arrays(self, data: Any, labels: Any) -> None:
        """What the net's MemoryData layer serves: one batch after another, again from the start.

        Args:
            data: images [N, C, H, W]; N is a multiple of the layer's batch size.
            labels: N numbers.
        """
        layer = next((d for d in self.definition.layers if d.type == "MemoryData"), None)
        if layer is None:
            raise NetError("the net has no MemoryData layer")
        images, numbers = real_numbers(data, "data"), real_numbers(labels, "labels")
        batch, *extents = self.arrays.inputs[layer.tops[0]].shape
        need(
            list(images.shape[1:]) == extents and len(images) and len(images) % batch == 0,
            f"'{layer.name}' serves images [N, {', '.join(map(str, extents))}], N a multiple of"
            f" {batch}; data of shape {list(images.shape)} were given",
        )
        need(
            numbers.size == len(images),
            f"there are {len(images)} images and {numbers.size} labels",
        )
        self._served = _Served(layer.tops, images, numbers.reshape(-1), batch)

    def forward(
        self,
        blobs: Sequence[str] | None = None,
        start: str | None = None,
        end: str | None = None,
        **inputs: Any,
    ) -> dict[str, np.ndarray]:
        if start is None:
            self._serve()
        return super().forward(blobs, start, end, **inputs)

    def forward_backward(
        self,
        inputs: Mapping[str, Any] | None = None,
        gradients: Mapping[str, Any] | None = None,
        wrt: Sequence[str] | None = None,
    ) -> dict[str, np.ndarray]:
        self._serve()
        return super().forward_backward(inputs, gradients, wrt)

    # -- what the solver asks for -----------------------------------------------------------

    def add_gradients(self, first: bool) -> None:
        """A pass that only adds to the sum of gradients; the first one starts it afresh."""
        if first:
            self.clear_param_diffs()
        made = self._step_compilation(None)
        self._run_forward(made, "both")
        self._diffs_are_clear -= set(made.signature.wrt)

    def update(self, rate: float, iteration: int) -> None:
        """Forward, backward and the change of all parameters in one native call.

        `iteration` counts from 0: Adam's rate depends on it.
        """
        self._rate[...] = rate * self._correction(iteration)
        made = self._step_compilation(self._rule)
        self._run_forward(made, "both")
        self._forward_is_current = False  # it went with the old parameters

    def histories(self) -> list[np.ndarray]:
        """The method's history as a state file has it: a set for all parameters, then the next."""
        parameters = driver.parameter_types(self.front())
        count = METHODS[self._rule.method].histories
        held: list[np.ndarray] = []
        for number in range(count):
            for name, type in parameters.items():
                state = history_names(self._rule.method, name)[number]
                if state not in self.arrays.states:
                    self.arrays.states[state] = aligned_zeros(type.shape, type.dtype)
                held.append(self.arrays.states[state])
        return held

    def continue_random_numbers(self, passes: int) -> None:
        """Draw from here on as if so many passes had been run."""
        self.arrays.states[COUNTER][...] = self._seed * SEED_STEP + passes

    # -- inside -----------------------------------------------------------------------------

    def _step_compilation(self, rule: UpdateRule | None) -> Compilation:
        self._follow_reshape()
        front = self.front()
        if front.refusals:
            raise NetError(front.refusals)
        self._serve()
        names = tuple(learned.name for learned in self._rule.parameters)
        signature = replace(self._signature, wrt=names, update=rule, accumulate=rule is None)
        return self._compilation(driver.with_shapes(signature, self._shapes))

    def _correction(self, iteration: int) -> float:
        if self._rule.method != "Adam":
            return 1.0
        momentum, momentum2, _ = self._rule.settings
        t = iteration + 1
        return math.sqrt(1 - momentum2**t) / (1 - momentum**t)

    def _serve(self) -> None:
        if self._served is not None:
            self.set_inputs(self._served.next())


class _Served:
    """Arrays that are served in batches."""

    def __init__(
        self, tops: Sequence[str], images: np.ndarray, labels: np.ndarray, batch: int
    ) -> None:
        self.tops = tops
        self.arrays = (images, labels)
        self.batch = batch
        self.position = 0

    def next(self) -> dict[str, np.ndarray]:
        """The batch whose turn it is."""
        first, last = self.position, self.position + self.batch
        self.position = last % len(self.arrays[1])
        return {top: array[first:last] for top, array in zip(self.tops, self.arrays, strict=True)}


def _rule(net: Net, definition: SolverDefinition) -> UpdateRule:
    """What a step does: parameters of rate 0 stay, and only count in the norm that is clipped."""
    front = net.front()
    learned = [
        Learned(name, held.lr_mult, definition.decay * held.decay_mult)
        for name, held in front.parameters.items()
        if held.learned
        and (held.lr_mult != 0 or (definition.clip is not None and name in front.default_wrt))
    ]
    return UpdateRule(
        definition.method,
        definition.settings,
        tuple(learned),
        definition.norm,
        definition.clip,
        definition.iter_size,
    )
