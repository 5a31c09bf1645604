"""How Caffe's learning rate follows the iterations: the field lr_policy of a solver."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from graphc.error import Diagnostic, NetError, did_you_mean
from graphc.frontends.caffe.message import Message

POLICIES = ("fixed", "step", "exp", "inv", "multistep", "poly", "sigmoid")


@dataclass(frozen=True)
class RatePolicy:
    """A solver's learning rate; the fields are called as in its text."""

    policy: str
    base: float
    gamma: float = 0.0
    power: float = 0.0
    stepsize: int = 0
    stepvalues: tuple[int, ...] = ()
    max_iter: int = 0

    def at(self, iteration: int, steps: int = 0) -> tuple[float, int]:
        """The rate of an iteration, counted from 0, and the number of steps taken by then.

        `steps` are those taken before; multistep takes at most one more. Raises NetError where the
        policy has no rate for the iteration.
        """
        base = self.base
        try:
            match self.policy:
                case "step":
                    steps = iteration // self.stepsize
                    return base * self.gamma**steps, steps
                case "multistep":
                    if steps < len(self.stepvalues) and iteration >= self.stepvalues[steps]:
                        steps += 1
                    return base * self.gamma**steps, steps
                case "exp":
                    return base * self.gamma**iteration, steps
                case "inv":
                    return base * math.pow(1 + self.gamma * iteration, -self.power), steps
                case "poly":
                    return base * math.pow(1 - iteration / self.max_iter, self.power), steps
                case "sigmoid":
                    x = self.gamma * (iteration - self.stepsize)
                    small = math.exp(-abs(x))
                    return base * (1 if x > 0 else small) / (1 + small), steps
                case _:
                    return base, steps
        except (OverflowError, ValueError):
            last = f"; the last is {self.max_iter}" if self.policy == "poly" else ""
            raise NetError(
                f"lr_policy '{self.policy}' has no rate for iteration {iteration}{last}"
            ) from None

    def steps_before(self, iteration: int) -> int:
        """The number of steps taken when all iterations before this one are done."""
        steps = 0
        taken = -1
        for value in self.stepvalues if self.policy == "multistep" else ():
            taken = max(value, taken + 1)
            steps += taken < iteration
        return self.at(iteration - 1)[1] if self.policy == "step" and iteration else steps


def rate_policy(solver: Message) -> RatePolicy:
    """The policy of a SolverParameter."""
    return RatePolicy(
        policy=solver.get("lr_policy"),
        base=solver.get("base_lr"),
        gamma=solver.get("gamma"),
        power=solver.get("power"),
        stepsize=solver.get("stepsize"),
        stepvalues=tuple(solver.all("stepvalue")),
        max_iter=solver.get("max_iter"),
    )


def policy_warnings(solver: Message) -> Iterator[Diagnostic]:
    """Where the policy needs gamma or power, and these are not given and so 0."""
    policy, span = solver.get("lr_policy"), solver.span_of("lr_policy")
    never = "the rate never changes"
    effects = dict.fromkeys(("step", "exp", "multistep"), "the rate becomes 0")
    effects |= {"inv": never, "sigmoid": "it is half of base_lr all the time"}
    if policy in effects and not solver.has("gamma"):
        text = f"lr_policy '{policy}' without gamma: {effects[policy]}"
        yield Diagnostic(text, span, "warning")
    if policy in ("inv", "poly") and not solver.has("power"):
        text = f"lr_policy '{policy}' without power: the rate never changes"
        yield Diagnostic(text, span, "warning")
    if policy == "multistep" and not solver.has("stepvalue"):
        text = "lr_policy 'multistep' without a stepvalue: the rate never changes"
        yield Diagnostic(text, span, "warning")


def policy_mistakes(solver: Message) -> Iterator[Diagnostic]:
    """What is wrong with the policy of a SolverParameter."""
    policy = solver.get("lr_policy")
    if policy not in POLICIES:
        known = f"the policies are {', '.join(POLICIES)}"
        if not solver.has("lr_policy"):
            yield Diagnostic("the solver has no lr_policy", solver.span, hint=known)
            return
        hint = did_you_mean(policy, POLICIES) or known
        span = solver.span_of("lr_policy")
        yield Diagnostic(f"unknown learning rate policy '{policy}'", span, hint=hint)
        return
    needs_steps = {"step": "stepsize", "sigmoid": "stepsize", "poly": "max_iter"}
    name = needs_steps.get(policy)
    if name and solver.get(name) <= 0:
        given = f", not {solver.get(name)}" if solver.has(name) else ""
        span = solver.span_of(name if solver.has(name) else "lr_policy")
        yield Diagnostic(f"lr_policy '{policy}' needs a {name} of at least 1{given}", span)
    if policy in ("step", "exp", "inv", "multistep", "sigmoid") and solver.get("gamma") < 0:
        span = solver.span_of("gamma")
        yield Diagnostic(f"gamma must be at least 0, not {solver.get('gamma'):g}", span)
