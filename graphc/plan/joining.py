"""Joins steps into one sweep, so that a value stays in registers between them.

A consumer joins the step that makes what it reads (convolution, bias and ReLU become one), and
siblings join where they sweep the same array. What the joined sweep need not store is dropped. The
arithmetic stays the same, element by element. `graphc.kernel.join` knows which kernels can be
joined; this file knows which steps should be:

- only steps of one pass, since forward and backward may be called apart, but for gradients that
  can be made in forward (graphc.plan.early);
- never a packing copy with the contraction that wants it, which would undo it;
- never a large copy that turns neighbours away from each other with the map before or after it: a
  processor copies squares that it transposes in registers, while a map would gather elements;
- a value that somebody else reads, or that must survive, is stored as well.
"""

from __future__ import annotations

from graphc.ir.remark import Saving
from graphc.kernel.contraction import match
from graphc.kernel.facts import is_elementwise
from graphc.kernel.lang import Fold, Kernel
from graphc.plan.alike import join, join_siblings
from graphc.plan.cores import Cores
from graphc.plan.draft import Array, Draft, DraftStep, merged, same_sweep
from graphc.plan.early import make_early_gradients
from graphc.plan.grouping import regrouped
from graphc.plan.second_sweep import second_sweep
from graphc.plan.through import read_through

# A joined kernel with more arrays than this gains nothing: they no longer share the caches' ways.
MOST_ARGUMENTS = 12
FEW = 3  # points that make no square
UNSTORED = "a value that stays in registers"


def join_steps(draft: Draft, cores: Cores) -> None:
    """Join what can be joined, from the first consumer to the last."""
    make_early_gradients(draft)
    read_through(draft)
    _Joining(draft, cores).run()


class _Joining:
    def __init__(self, draft: Draft, cores: Cores):
        self.draft = draft
        self.cores = cores
        self.writers = draft.writers()
        self.seen = {step: draft.sources(step.reads) for step in draft.steps}
        self.readers = {name: set(steps) for name, steps in draft.readers().items()}
        self.survivors = draft.survivors()
        self.place = {step: i for i, step in enumerate(draft.steps)}
        self.at: list[DraftStep | None] = list(draft.steps)
        self.contractions: dict[Kernel, bool] = {}
        self.refused: set[tuple[DraftStep, DraftStep]] = set()
        self.followers: dict[DraftStep, set[DraftStep]] = {}
        for step in draft.steps:
            for other in step.after:
                self.followers.setdefault(other, set()).add(step)
        self.shown: dict[str, list[str]] = {}
        for blob, name in draft.blobs.items():
            self.shown.setdefault(name, []).append(blob)

    def run(self) -> None:
        for place in range(len(self.at)):
            consumer = self.at[place]
            while consumer is not None:
                consumer = self.join_one(consumer)
        self.join_reductions()
        self.join_second_sweeps()
        self.draft.steps = [step for step in self.at if step is not None]
        self.draft.check_order()

    def join_one(self, consumer: DraftStep) -> DraftStep | None:
        """Join the consumer with its latest possible producer; the joined step, or None."""
        names = [name for name in dict.fromkeys(consumer.reads) if name in self.writers]
        for name in sorted(names, key=lambda n: -self.place[self.writers[n]]):
            producer = self.writers[name]
            if (producer, consumer) in self.refused:
                continue
            joined = self.try_join(producer, consumer)
            if joined is not None:
                return joined
            self.refused.add((producer, consumer))
        return None

    def try_join(self, producer: DraftStep, consumer: DraftStep) -> DraftStep | None:
        if not self.worth_it(producer, consumer):
            return None
        second = regrouped(producer.kernel, producer.writes, consumer.kernel, consumer.reads)
        if not (same_sweep(producer.kernel, second) or is_elementwise(second)):
            return None  # nobody would expect it
        return self.join_as(producer, consumer, second)

    def join_as(self, producer: DraftStep, consumer: DraftStep, second: Kernel) -> DraftStep | None:
        """The consumer, in the form `second`, joined to the producer; None with a remark if not."""
        passed = {name for name in producer.writes if name in consumer.reads}
        others = self.draft.sources(name for name in consumer.reads if name not in passed)
        if not others.isdisjoint(producer.writes):
            return None  # it reads what the producer writes through a view, too
        is_fill = not producer.reads and len(producer.writes) == 1
        dropped = {name for name in passed if is_fill or self.only_for(name, consumer)}
        place = self.place[consumer]
        if not is_fill and not self.can_wait(producer, consumer):
            place = self.place[producer]
            if not self.can_hurry(producer, consumer):
                return None
        made = join(producer.kernel, producer.arguments, second, consumer.arguments, dropped)
        if isinstance(made, str):
            self.refuse(producer, consumer, made)
            return None
        step = merged(producer, consumer, *made)
        self.replace(producer, consumer, step, place, dropped)
        return step

    def refuse(self, producer: DraftStep, consumer: DraftStep, reason: str) -> None:
        sentence = f"{consumer.pass_label} is not joined to {producer.pass_label}: {reason}"
        self.draft.remark("join", f"layer:{consumer.label}", sentence)

    def join_second_sweeps(self) -> None:
        """Let maps follow the reductions whose results they read, an index of these at a time."""
        for consumer in list(self.at):
            if consumer is None:
                continue
            makers = {self.writers[name] for name in consumer.reads if name in self.writers}
            for producer in sorted(makers, key=lambda step: -self.place[step]):
                if self.try_second_sweep(producer, consumer):
                    break

    def try_second_sweep(self, producer: DraftStep, consumer: DraftStep) -> bool:
        if not self.worth_it(producer, consumer) or self.is_contraction(producer.kernel):
            return False
        second = second_sweep(self.draft, producer, consumer, self.cores)
        if second is None:
            return False
        if isinstance(second, str):
            self.refuse(producer, consumer, second)
            return False
        sentence = f"{consumer.pass_label} goes over what {producer.pass_label} has just read"
        if self.join_as(producer, consumer, second.kernel) is None:
            return False
        said = f"{sentence}: {second.near}"
        self.draft.remark("join", f"layer:{consumer.label}", said)
        return True

    def join_reductions(self) -> None:
        """Join siblings that each reduce the same array to something smaller: one sweep for all."""
        by_array: dict[str, list[DraftStep]] = {}
        for step in self.at:
            if step is None or not step.reads or self.is_contraction(step.kernel):
                continue
            if _has_fold(step.kernel):
                sizes = {name: self.draft.arrays[name].type.size for name in step.reads}
                for name in (n for n, size in sizes.items() if size == max(sizes.values())):
                    by_array.setdefault(name, []).append(step)
        merged_in: dict[DraftStep, DraftStep] = {}
        for name, steps in by_array.items():
            sweeps: list[DraftStep] = []
            # In the order they run in: some have moved when they were joined for another array.
            latest = {_latest(merged_in, step) for step in steps}
            for second in sorted(latest, key=lambda step: self.place[step]):
                for place, first in enumerate(sweeps):
                    joined = self.try_reductions(name, first, second)
                    if joined is not None:
                        merged_in[first] = merged_in[second] = sweeps[place] = joined
                        break
                else:
                    sweeps.append(second)

    def try_reductions(self, name: str, first: DraftStep, second: DraftStep) -> DraftStep | None:
        if self.reduces(name, first) and self.reduces(name, second):
            return self.try_siblings(first, second)
        return None

    def reduces(self, name: str, step: DraftStep) -> bool:
        arrays = self.draft.arrays
        made = sum(arrays[written].type.size for written in step.writes)
        return 2 * made <= arrays[name].type.size

    def try_siblings(self, first: DraftStep, second: DraftStep) -> DraftStep | None:
        if first.backward != second.backward or self.writes_what_reads(first, second):
            return None
        if len({*first.arguments, *second.arguments}) > MOST_ARGUMENTS:
            return None
        if not same_sweep(first.kernel, second.kernel):
            return None
        place = self.place[second]
        if not self.can_wait(first, second):
            place = self.place[first]
            if not self.can_hurry(first, second):
                return None
        made = join_siblings(first.kernel, first.arguments, second.kernel, second.arguments)
        if isinstance(made, str):
            return None
        step = merged(first, second, *made)
        self.replace(first, second, step, place, set())
        return step

    def writes_what_reads(self, first: DraftStep, second: DraftStep) -> bool:
        """Whether one of the two waits for the other."""
        waits = first in second.after or second in first.after
        return waits or bool(self.seen[second] & set(first.writes))

    def worth_it(self, producer: DraftStep, consumer: DraftStep) -> bool:
        if producer.backward != consumer.backward or consumer in self.draft.commits:
            return False
        if len({*producer.arguments, *consumer.arguments}) > MOST_ARGUMENTS:
            return False
        if self.is_contraction(consumer.kernel):
            return False
        if producer.is_copy and _has_fold(consumer.kernel):
            return False
        if self.turns(producer) or self.turns(consumer):
            return False
        return not (consumer.is_copy and _has_fold(producer.kernel))

    def turns(self, step: DraftStep) -> bool:
        """Whether a step is a large copy whose neighbours do not stay neighbours."""
        least = self.cores.turned_bytes
        if not (step.is_copy and least):
            return False
        source, target = (self.draft.arrays[name] for name in (step.reads[0], step.writes[0]))
        own = _neighbours(source), _neighbours(target)
        return target.type.bytes >= least and None not in own and own[0] != own[1]

    def is_contraction(self, kernel: Kernel) -> bool:
        """Whether a kernel has tiles of its own, which want their operands in memory."""
        if kernel not in self.contractions:
            self.contractions[kernel] = match(kernel) is not None
        return self.contractions[kernel]

    def only_for(self, name: str, consumer: DraftStep) -> bool:
        """Whether an array is needed by nobody but the consumer, so that it need not be stored."""
        ways = {read for read in consumer.reads if name in self.draft.arrays[read].sources}
        return (
            self.readers[name] == {consumer}
            and ways == {name}
            and name not in self.survivors
            and self.draft.arrays[name].storage.slot == 0
        )

    def can_wait(self, producer: DraftStep, consumer: DraftStep) -> bool:
        """Whether the producer may run as late as the consumer."""
        made = set(producer.writes)
        between = self.at[self.place[producer] + 1 : self.place[consumer]]
        return not any(producer in step.after or made & self.seen[step] for step in between if step)

    def can_hurry(self, producer: DraftStep, consumer: DraftStep) -> bool:
        """Whether the consumer may run as early as the producer."""
        needed = {self.writers[name] for name in self.seen[consumer]} | consumer.after
        return all(self.place[step] <= self.place[producer] for step in needed)

    def replace(
        self,
        producer: DraftStep,
        consumer: DraftStep,
        step: DraftStep,
        place: int,
        dropped: set[str],
    ) -> None:
        """Put the joined step where the two were; a fill stays for its other readers."""
        stays = any(
            self.readers[name] - {consumer}
            or name in self.survivors
            or self.draft.arrays[name].storage.slot
            for name in dropped
        )
        gone = {consumer} if stays else {producer, consumer}
        for old in gone:
            self.at[self.place[old]] = None
            for name in self.seen[old]:
                self.readers[name].discard(old)
        self.at[place] = step
        self.place[step] = place
        self.seen[step] = self.draft.sources(step.reads)
        for name in self.seen[step]:
            self.readers[name].add(step)
        for name in step.writes:
            self.writers[name] = step
        self.wait(gone, step)
        for name in () if stays else sorted(dropped):
            del self.writers[name]
            self.forget(name, step)

    def wait(self, gone: set[DraftStep], step: DraftStep) -> None:
        """Let who waits for the steps that have gone wait for the joined one."""
        followers: set[DraftStep] = set().union(*(self.followers.pop(old, ()) for old in gone))
        followers -= {*gone, step}
        for other in followers:
            other.after = (other.after - gone) | {step}
        if followers:
            self.followers[step] = followers
        for before in step.after:
            self.followers.setdefault(before, set()).add(step)

    def forget(self, name: str, step: DraftStep) -> None:
        """Drop an array that is no longer stored, and say so to who asks for the blob."""
        self.draft.remark(
            "join",
            f"blob:{name}",
            f"{name} is not stored: it is made and used in one sweep ({step.pass_label})",
            Saving(UNSTORED, self.draft.arrays.pop(name).type.bytes),
        )
        for blob in self.shown.pop(name, ()):
            del self.draft.blobs[blob]
            self.draft.gone[blob] = (
                f"'{blob}' is not stored: {step.pass_label} are done in one sweep;"
                f" keep='{blob}' keeps it"
            )


def _latest(merged_in: dict[DraftStep, DraftStep], step: DraftStep) -> DraftStep:
    """The step that a step has become part of, or itself."""
    while step in merged_in:
        step = merged_in[step]
    return step


def _neighbours(array: Array) -> int | None:
    """The axis of more than a few points along which elements lie side by side."""
    shape = array.type.shape
    found = [n for n, step in enumerate(array.strides) if step == 1 and shape[n] > FEW]
    return found[0] if found else None


def _has_fold(kernel: Kernel) -> bool:
    return any(isinstance(statement, Fold) for statement in kernel.body)
