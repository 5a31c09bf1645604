"""The learning rate of a solver's text: its field lr_policy, and what can be wrong with it."""

from __future__ import annotations

from collections.abc import Iterator

from graphc.error import Diagnostic, did_you_mean
from graphc.frontends.caffe.message import Message
from graphc.runtime.rate_policy import RatePolicy

POLICIES = ("fixed", "step", "exp", "inv", "multistep", "poly", "sigmoid")


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
