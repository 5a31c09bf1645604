"""Maps that cost next to nothing to compute again, and are: nobody has to ask for that.

After batch normalisation, Scale and ReLU a convolution leaves two maps for backward: what it made,
which the statistics' gradients read, and the ReLU's output, which the next convolution's weight
gradient reads. The second is an elementwise function of the first and of a few numbers a channel,
so it need not wait: one sweep makes it again, at about the price of a copy. Sums of a residual net
and the normalised inputs of a densely connected one are such maps as well.

THE RULE. A value that waits at the peak is made again before its next reader where one step makes
it, without a sum, a product or a costly function. Round by round the most crowded steps are
relieved by the maps that take most off for their time, as long as

- a round lowers the peak by a larger part than WORTH times the part of a call's time that it costs;
- all rounds together cost no more than MOST_TIME of a call, by a rough count.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np

from graphc.kernel.contraction import KERNELS_REMEMBERED
from graphc.kernel.inline import COSTLY
from graphc.kernel.lang import Call, Fold, Kernel, Store
from graphc.kernel.narrow import narrowed
from graphc.kernel.walk import statement_exprs, walk
from graphc.plan.arena import aligned
from graphc.plan.budget import shown
from graphc.plan.draft import Draft, DraftStep, Storage
from graphc.plan.early import CHANGING
from graphc.plan.occupancy import Occupancy, Overwriting
from graphc.plan.repeat import Repeat, Repeater, over_target
from graphc.plan.rough_time import shown_seconds

# A peak below this is no burden: nothing is repeated to lower it.
LEAST_PEAK = 32 << 20
# The part of the peak that a round aims to take off.
ROUND = 1 / 25
# A round takes a part of the peak off that is at least so many times the part of the time it costs.
WORTH = 4.0
# All rounds together cost at most this part of a call. The rough count takes products for slower
# than they are, so the true part may be twice that.
MOST_TIME = 0.015


def repeat_cheap_maps(draft: Draft, forward_steps: int, overwriting: Overwriting) -> int:
    """Let backward make cheap maps again; returns the new number of forward steps."""
    maps = _CheapMaps(draft, forward_steps, overwriting)
    before = maps.occupancy().peak
    if forward_steps == len(draft.steps) or before <= LEAST_PEAK:
        return forward_steps
    maps.run()
    if maps.count:
        after = maps.occupancy().peak
        draft.remark(
            "recompute",
            "net",
            f"{maps.count} cheap steps run a second time: at the peak {shown(after)} are live"
            f" instead of {shown(before)}, for about {shown_seconds(maps.seconds)}, which is"
            f" {maps.seconds / maps.whole:.1%} of a call by a rough count",
        )
    return maps.forward_steps


class _CheapMaps(Repeater):
    """Rounds of repeats of one step each."""

    def __init__(self, draft: Draft, forward_steps: int, overwriting: Overwriting):
        super().__init__(draft, forward_steps, overwriting)
        self.whole = sum(map(self.cost, draft.steps))

    def run(self) -> None:
        now = self.occupancy()
        while True:
            target = now.peak - max(int(now.peak * ROUND), 1)
            chosen = self.round(now, target)
            if not chosen:
                return
            spent = sum(repeat.seconds for repeat in chosen) / self.whole
            undo = self.undo()
            # From the last to the first, so that positions before stay what they are.
            for repeat in sorted(chosen, key=lambda r: -r.before):
                reader = self.draft.steps[repeat.before]
                self.apply(repeat)
                self.note(repeat, reader)
            self.hold_parameters()
            after = self.occupancy()
            if 1 - after.peak / now.peak < WORTH * spent:
                undo()
                return
            now = after

    def round(self, now: Occupancy, target: int) -> list[Repeat]:
        """Repeats that do not touch each other, the best first, until the target is met."""
        left = MOST_TIME * self.whole - self.seconds
        live = now.live.copy()
        chosen: list[Repeat] = []
        touched: set[Storage] = set()
        for repeat in sorted(self.candidates(now, target), key=lambda r: -r.gain / r.seconds):
            if live.max() <= target:
                break
            storage, step = repeat.storages[0], self.draft.steps[repeat.steps[0]]
            involved = {storage, *(self.storage(name) for name in step.reads)}
            involved = {one for one in involved if not one.slot}
            if repeat.seconds > left or touched & involved:
                continue
            change = self.change(now, repeat)
            if over_target(live + change, target) >= over_target(live, target):
                continue
            live += change
            left -= repeat.seconds
            touched |= involved
            chosen.append(repeat)
        return chosen

    def candidates(self, now: Occupancy, target: int) -> list[Repeat]:
        """Every cheap map that waits where it is too crowded."""
        crowded = np.concatenate(([0], np.cumsum(now.live > target)))
        found = []
        for storage, written in now.written.items():
            if len(written) != 1 or storage in now.pinned:
                continue
            step = self.draft.steps[written[0]]
            if not self.is_cheap(step):
                continue
            for after, before in pairwise(now.touched[storage]):
                waits = int(crowded[before] - crowded[after + 1])
                if not waits or before < self.forward_steps:
                    continue
                if self.inputs(now, written[0], before, storage) is None:
                    continue
                gain = waits * storage.bytes
                cost = self.cost(step)
                found.append(Repeat((storage,), (written[0],), after, before, gain, cost, False))
        return found

    def change(self, now: Occupancy, repeat: Repeat) -> np.ndarray:
        """How much more is live at each step."""
        change = np.zeros(now.count, np.int64)
        (storage,), (position,) = repeat.storages, repeat.steps
        change[repeat.after + 1 : repeat.before] -= aligned(storage.bytes)
        for source in self.inputs(now, position, repeat.before, storage) or ():
            last = now.spans[source][1]
            if last < repeat.before:
                change[last + 1 : repeat.before] += aligned(source.bytes)
        return change

    def is_cheap(self, step: DraftStep) -> bool:
        """Whether it only makes maps, element by element, of what cannot change meanwhile."""
        if step.has_effect or step.is_copy or not step.reads:
            return False
        if len(step.writes) > 1 and narrowed(step.kernel, frozenset({0})) is None:
            return False
        for name in step.reads:
            array = self.draft.arrays[name]
            changing = self.draft.slots[array.storage.slot].role in CHANGING
            if changing and not step.backward and not self.is_small_parameter(name):
                return False
        return _is_cheap(step.kernel)


@lru_cache(KERNELS_REMEMBERED)
def _is_cheap(kernel: Kernel) -> bool:
    for statement in kernel.body:
        if isinstance(statement, Fold):
            return False
        if isinstance(statement, Store) and (statement.axes or statement.mode == "add"):
            return False
        for expr in statement_exprs(statement):
            if any(isinstance(p, Call) and p.function in COSTLY for p in walk(expr)):
                return False
    return True
