"""How a learning rate follows the iterations, as Caffe's solvers let it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from graphc.error import NetError


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
