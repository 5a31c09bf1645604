"""The net of a solver: a Net whose calls also change its parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from graphc import driver
from graphc.driver import Compilation, Signature
from graphc.error import NetError, need
from graphc.frontends.caffe.layer import COUNTER
from graphc.frontends.caffe.solver import SolverDefinition
from graphc.net import Net
from graphc.net_arrays import SEED_STEP
from graphc.runtime.cpu import aligned_zeros
from graphc.runtime.turn import one_at_a_time
from graphc.training_step import METHODS, RATE, Learned, UpdateRule, history_names


class TrainingNet(Net):
    """A net in its training phase, with the history of a solver's method.

    Gradients are consumed where they are made: after a step, `diff` of a parameter holds nothing of
    use.

    Attributes:
        updates: how often the parameters were changed, the call that control-C has met included.
    """

    def __init__(
        self,
        definition: SolverDefinition,
        **options: Any,
    ):
        """`options` as those of `graphc.Net`."""
        self._seed = (definition.seed or 0) % 2**32
        phase = definition.net.phase
        super().__init__(definition.net, phase=phase, seed=self._seed, **options)
        self._rate = self.arrays.extra[RATE] = aligned_zeros((), self.arrays.dtype)
        self._advance: Callable[[], object] | None = None
        self.updates = 0
        self._rule = _rule(self, definition)
        # What is compiled for steps, with and without a rule, and for which signature of forward.
        self._step_signatures: dict[bool, tuple[Signature, Signature]] = {}

    # -- what the user sees -----------------------------------------------------------------

    def step(self) -> None:
        """One iteration of the solver: one native call, or iter_size calls where that is set."""
        need(self._advance is not None, "this net belongs to no solver")
        assert self._advance is not None
        self._advance()

    # -- what the solver asks for -----------------------------------------------------------

    @one_at_a_time
    def add_gradients(self, first: bool) -> None:
        """A pass that only adds to the sum of gradients; the first one starts it afresh."""
        if first:
            self.arrays.clear_parameter_diffs()
        made = self._step_compilation(None)
        self._calls.forward(made, "both")
        self.arrays.cleared -= set(made.signature.wrt)

    @one_at_a_time
    def update(self, rate: float, iteration: int) -> None:
        """Forward, backward and the change of all parameters in one native call.

        `iteration` counts from 0: Adam's rate depends on it.
        """
        self._rate[...] = rate * self._correction(iteration)
        made = self._step_compilation(self._rule)
        self._calls.has_ended = False
        try:
            self._calls.forward(made, "both")
        finally:
            self.updates += self._calls.has_ended
            self._calls.is_current = False  # it went with the old parameters

    def lowered_steps(self) -> list[Compilation]:
        """What an iteration runs, up to the plans: the pass that changes parameters, and, where
        iter_size is above 1, the pass that comes before it.
        """
        rules = [self._rule] if self._rule.passes == 1 else [self._rule, None]
        return [driver.lower(self.definition, self._step_signature(rule)) for rule in rules]

    @property
    def rule(self) -> UpdateRule:
        """How a step changes parameters."""
        return self._rule

    def values(self) -> dict[str, np.ndarray]:
        """All that lasts from call to call: as for a Net, and the method's history."""
        self.histories()
        return super().values()

    def lasting(self) -> list[str]:
        """The parameters that steps change, and their histories."""
        learned = [learned.name for learned in self._rule.parameters if learned.factor]
        method = self._rule.method
        return [*learned, *(state for name in learned for state in history_names(method, name))]

    @one_at_a_time
    def look(self) -> dict[str, np.ndarray]:
        """The outputs for one more batch, by a program that has no backward pass."""
        self._follow_shapes()
        self.feeds.fill(self.arrays.inputs)
        self._calls.forward(self.compilations.compiled(self.compilations.signature()))
        return {name: np.array(self.blobs[name].data) for name in self.outputs}

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
        self._follow_shapes()
        signature = self._step_signature(rule)
        self.feeds.fill(self.arrays.inputs)
        return self.compilations.compiled(signature)

    def _step_signature(self, rule: UpdateRule | None) -> Signature:
        """Of a pass that changes parameters; without a rule, of one that adds to the gradients."""
        forward, adds = self.compilations.signature(), rule is None
        known = self._step_signatures.get(adds)
        if known is None or known[0] is not forward:
            front = self.front()
            if front.refusals:
                raise NetError(front.refusals)
            names = tuple(learned.name for learned in self._rule.parameters)
            made = self.compilations.signature(wrt=names, update=rule, accumulate=adds)
            known = self._step_signatures[adds] = (forward, made)
        return known[1]

    def _correction(self, iteration: int) -> float:
        if self._rule.method != "Adam":
            return 1.0
        momentum, momentum2, _ = self._rule.settings
        t = iteration + 1
        return math.sqrt(1 - momentum2**t) / (1 - momentum**t)


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
