"""Run a kernel in numpy: the oracle that generated code is compared with.

The usual way takes whole index grids at once, so thousands of elements are quick. With a
`schedule` the kernel runs one scalar at a time in an order as unkind as the rules of
`graphc.kernel.lang` allow: iterations of `each` interleave at random, a store's points are
evaluated in random groups before any of the group is written. A kernel that gives the same result
under every schedule on overlapping arrays may overwrite its input.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from graphc.error import NetError, need
from graphc.ir.types import REAL
from graphc.kernel.functions import apply
from graphc.kernel.lang import (
    Axis,
    Buffer,
    Call,
    Check,
    Const,
    Expr,
    Fold,
    Kernel,
    Let,
    Load,
    Local,
    Store,
    Var,
)

# Points evaluated at once: large enough for numpy's speed, small enough for the memory of a test.
GRID_POINTS = 2**20

# A box of loop iterations: for every axis the indices that are taken of it.
Box = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class CheckFailure:
    """A Check that did not hold: its message, and the number of the first iteration that failed."""

    message: str
    value: int | float
    statement: int


def interpret(
    kernel: Kernel, arrays: Sequence[np.ndarray], schedule: np.random.Generator | None = None
) -> list[CheckFailure]:
    """Run `kernel` on `arrays`, which are its inputs then its outputs, in place.

    Returns one failure per Check statement that did not hold. Raises NetError for arrays of another
    type than the buffers', and for an index out of bounds that no `where` guards.
    """
    need(
        len(arrays) == len(kernel.buffers),
        f"kernel '{kernel.name}' takes {len(kernel.buffers)} arrays, not {len(arrays)}",
    )
    for buffer, array in zip(kernel.buffers, arrays, strict=True):
        need(
            array.dtype == np.dtype(buffer.dtype) and array.shape == buffer.shape,
            f"kernel '{kernel.name}': {buffer.name} is {_type(buffer)},"
            f" not {array.dtype}{list(array.shape)}",
        )
    memory = {b.name: a for b, a in zip(kernel.buffers, arrays, strict=True)}
    run = _Run(kernel, memory, schedule)
    with np.errstate(all="ignore"):
        if schedule is None:
            run.in_order()
        else:
            run.interleaved(schedule)
    return [run.failures[position] for position in sorted(run.failures)]


def _type(buffer: Buffer) -> str:
    return f"{buffer.dtype}[{', '.join(map(str, buffer.shape))}]"


# -- loops ----------------------------------------------------------------------------------------


def _boxes(axes: Sequence[Axis], points: int) -> Iterator[Box]:
    """Cut the loops over `axes` into boxes of about `points` at most, in row-major order."""
    if any(axis.extent == 0 for axis in axes):
        return
    steps = []
    inner = 1
    for axis in reversed(axes):
        steps.append(max(1, min(axis.extent, points // inner)))
        # Once one axis is cut, those outside it advance one at a time: the order stays row-major.
        inner = inner * axis.extent if steps[-1] == axis.extent else points + 1
    cuts = [
        [np.arange(i, min(i + step, axis.extent)) for i in range(0, axis.extent, step)]
        for axis, step in zip(axes, reversed(steps), strict=True)
    ]
    yield from itertools.product(*cuts)


def _points(axes: Sequence[Axis]) -> list[Box]:
    """Every iteration by itself, in row-major order."""
    ranges = [range(axis.extent) for axis in axes]
    return [tuple(np.array([i]) for i in point) for point in itertools.product(*ranges)]


class _Frame:
    """Where an expression is evaluated: indices of the axes, locals, and which points count.

    Every value is an array with one dimension per axis, of size 1 where it does not depend on it.
    """

    def __init__(self, axes: Sequence[Axis], box: Box, local_values: dict[str, np.ndarray]):
        rank = len(axes)
        self.rank = rank
        self.shape = tuple(len(indices) for indices in box)
        self.indices = {
            axis: indices.reshape([-1 if d == place else 1 for d in range(rank)])
            for place, (axis, indices) in enumerate(zip(axes, box, strict=True))
        }
        self.locals = local_values
        self.mask: np.ndarray | None = None
        self.known: dict[int, np.ndarray] = {}


class _Run:
    def __init__(
        self,
        kernel: Kernel,
        memory: dict[str, np.ndarray],
        schedule: np.random.Generator | None,
    ):
        self.kernel = kernel
        self.memory = memory
        self.schedule = schedule
        self.failures: dict[int, CheckFailure] = {}

    # -- the two orders --

    def in_order(self) -> None:
        """Statement by statement on large boxes of iterations."""
        own = [math.prod(a.extent for a in getattr(s, "axes", ())) for s in self.kernel.body]
        widest = max([1, *own])
        for box in _boxes(self.kernel.each, max(4096, GRID_POINTS // widest)):
            for _ in self.iteration(box):
                pass

    def interleaved(self, schedule: np.random.Generator) -> None:
        """Iterations in random order, several at a time, a few small steps of one after another."""
        waiting = [self.iteration(point) for point in _points(self.kernel.each)]
        schedule.shuffle(waiting)
        lanes = int(schedule.integers(1, 1 + max(1, len(waiting))))
        active = [waiting.pop() for _ in range(min(lanes, len(waiting)))]
        while active:
            lane = int(schedule.integers(len(active)))
            try:
                for _ in range(int(schedule.integers(1, 9))):
                    next(active[lane])
            except StopIteration:
                active.pop(lane)
                if waiting:
                    active.append(waiting.pop())

    def iteration(self, box: Box) -> Iterator[None]:
        """The body for a box of `each`; pauses where another iteration may come between."""
        local_values: dict[str, np.ndarray] = {}
        for position, statement in enumerate(self.kernel.body):
            if isinstance(statement, Let):
                frame = _Frame(self.kernel.each, box, local_values)
                local_values[statement.local.name] = self.evaluate(statement.value, frame)
                yield
            elif isinstance(statement, Check):
                self.check(position, statement, _Frame(self.kernel.each, box, local_values))
            elif isinstance(statement, Fold):
                yield from self.fold(statement, box, local_values)
            else:
                yield from self.store(statement, box, local_values)

    def frames(
        self, statement: Fold | Store, box: Box, local_values: dict[str, np.ndarray], shuffle: bool
    ) -> Iterator[_Frame]:
        """A statement's own loops in pieces; points where its guard is false are masked or gone."""
        lanes = math.prod(len(indices) for indices in box)
        if self.schedule is None:
            pieces: Iterator[Box] | list[Box] = _boxes(
                statement.axes, max(1, GRID_POINTS // max(lanes, 1))
            )
        else:
            pieces = _points(statement.axes)
            if shuffle:
                self.schedule.shuffle(pieces)
        for piece in pieces:
            frame = _Frame((*self.kernel.each, *statement.axes), (*box, *piece), local_values)
            if statement.where is not None:
                frame.mask = self.evaluate(statement.where, frame)
                frame.known.clear()
                if not frame.mask.any():
                    continue
            yield frame

    # -- statements --

    def check(self, position: int, check: Check, frame: _Frame) -> None:
        holds = np.broadcast_to(self.evaluate(check.condition, frame), frame.shape).ravel()
        if holds.all() or position in self.failures:
            return
        values = np.broadcast_to(self.evaluate(check.value, frame), frame.shape).ravel()
        value = values[int(np.argmin(holds))].item()
        self.failures[position] = CheckFailure(check.message, value, position)

    def fold(self, fold: Fold, box: Box, local_values: dict[str, np.ndarray]) -> Iterator[None]:
        lanes = tuple(len(indices) for indices in box)
        totals = [
            np.full(lanes, _empty(fold, place), np.dtype(local.dtype))
            for place, local in enumerate(fold.locals)
        ]
        for frame in self.frames(fold, box, local_values, shuffle=False):
            values = [
                np.broadcast_to(self.evaluate(v, frame), frame.shape).reshape(*lanes, -1)
                for v in fold.values
            ]
            counts = None
            if frame.mask is not None:
                counts = np.broadcast_to(frame.mask, frame.shape).reshape(*lanes, -1)
            if fold.kind in ("argmax", "argmin"):
                _first_best(fold, totals, values, counts)
            else:
                _reduce(fold, totals, values, counts)
            yield
        for local, total in zip(fold.locals, totals, strict=True):
            local_values[local.name] = total

    def store(self, store: Store, box: Box, local_values: dict[str, np.ndarray]) -> Iterator[None]:
        array = self.memory[store.buffer.name]
        pending: list[tuple[tuple[np.ndarray, ...], np.ndarray]] = []
        group = 1 if self.schedule is None else int(self.schedule.choice([1, 2, 4, 1000]))
        for frame in self.frames(store, box, local_values, shuffle=store.mode == "set"):
            place = self.place(store.buffer, store.index, frame, "stores to")
            value = self.evaluate(store.value, frame)
            chosen: np.ndarray | slice = slice(None)
            if frame.mask is not None:
                chosen = np.broadcast_to(frame.mask, frame.shape).ravel()
            flat = [np.broadcast_to(i, frame.shape).ravel()[chosen] for i in place]
            pending.append((tuple(flat), np.broadcast_to(value, frame.shape).ravel()[chosen]))
            yield
            if len(pending) >= group:
                _write(array, store, pending)
                yield
        _write(array, store, pending)

    # -- expressions --

    def place(
        self, buffer: Buffer, index: tuple[Expr, ...], frame: _Frame, action: str
    ) -> tuple[np.ndarray, ...]:
        """Index arrays, checked where the frame's mask holds and harmless elsewhere."""
        place = tuple(self.evaluate(i, frame) for i in index)
        for dimension, (indices, extent) in enumerate(zip(place, buffer.shape, strict=True)):
            outside = (indices < 0) | (indices >= extent)
            if not outside.any():
                continue
            wrong = outside if frame.mask is None else outside & frame.mask
            if wrong.any():
                wrong, *parts = np.broadcast_arrays(wrong, *place)
                at = [str(int(part[wrong][0])) for part in parts]
                raise NetError(
                    f"kernel '{self.kernel.name}' {action} {buffer.name}[{', '.join(at)}], outside"
                    f" {_type(buffer)} at axis {dimension}"
                )
        if frame.mask is not None:
            limits = [max(extent - 1, 0) for extent in buffer.shape]
            place = tuple(np.clip(i, 0, top) for i, top in zip(place, limits, strict=True))
        return place

    def evaluate(self, expr: Expr, frame: _Frame) -> np.ndarray:
        known = frame.known.get(id(expr))
        if known is None:
            known = frame.known[id(expr)] = self._evaluate(expr, frame)
        return known

    def _evaluate(self, expr: Expr, frame: _Frame) -> np.ndarray:
        if isinstance(expr, Const):
            return np.full((1,) * frame.rank, expr.value, np.dtype(expr.dtype))
        if isinstance(expr, Var):
            if expr.axis not in frame.indices:
                raise NetError(f"kernel '{self.kernel.name}': nothing runs over {expr.axis.name}")
            return frame.indices[expr.axis]
        if isinstance(expr, Local):
            if expr.name not in frame.locals:
                raise NetError(f"kernel '{self.kernel.name}': {expr.name} is used before it is set")
            value = frame.locals[expr.name]
            return value.reshape(value.shape + (1,) * (frame.rank - value.ndim))
        if isinstance(expr, Load):
            place = self.place(expr.buffer, expr.index, frame, "reads")
            array = self.memory[expr.buffer.name]
            if array.size == 0:  # only reached where a guard is false
                return np.zeros((1,) * frame.rank, array.dtype)
            # A copy: a view of one element would change when the array does.
            loaded = np.array(array[place])
            return loaded if place else loaded.reshape((1,) * frame.rank)
        assert isinstance(expr, Call)
        return apply(expr, [self.evaluate(a, frame) for a in expr.args])


def _write(
    array: np.ndarray, store: Store, pending: list[tuple[tuple[np.ndarray, ...], np.ndarray]]
) -> None:
    """Write what was evaluated, in that order, and forget it."""
    for place, value in pending:
        if store.mode == "add":
            # ufunc.at goes through the indices one after another, as ordered adds must.
            np.add.at(
                array, place if place else (), value if place else value.sum(dtype=value.dtype)
            )
        elif place:
            array[place] = value
        elif value.size:
            array[()] = value[-1]
    pending.clear()


# -- reductions -----------------------------------------------------------------------------------


def _lowest(dtype: str) -> int | float:
    return -math.inf if dtype in REAL else int(np.iinfo(np.dtype(dtype)).min)


def _highest(dtype: str) -> int | float:
    return math.inf if dtype in REAL else int(np.iinfo(np.dtype(dtype)).max)


def _empty(fold: Fold, place: int) -> int | float:
    """What a fold over nothing gives; for integers the extreme of the type stands for infinity."""
    dtype = fold.locals[place].dtype
    if fold.kind in ("argmax", "argmin") and place == 1:
        return 0
    if fold.kind in ("max", "argmax"):
        return _lowest(dtype)
    if fold.kind in ("min", "argmin"):
        return _highest(dtype)
    return 1 if fold.kind == "prod" else 0


_REDUCTIONS: dict[str, np.ufunc] = {
    "sum": np.add,
    "prod": np.multiply,
    "max": np.fmax,
    "min": np.fmin,
}


def _reduce(
    fold: Fold, totals: list[np.ndarray], values: list[np.ndarray], counts: np.ndarray | None
) -> None:
    join = _REDUCTIONS[fold.kind]
    for place, value in enumerate(values):
        if counts is not None:
            neutral = np.array(_empty(fold, place), value.dtype)
            value = np.where(counts, value, neutral)
        part = join.reduce(value, axis=-1, dtype=value.dtype)
        totals[place] = np.asarray(join(totals[place], part))


def _first_best(
    fold: Fold, totals: list[np.ndarray], values: list[np.ndarray], counts: np.ndarray | None
) -> None:
    key, companion = values
    worst = np.array(_empty(fold, 0), key.dtype)
    plays = key == key if counts is None else (key == key) & counts  # a nan is not itself
    key = np.where(plays, key, worst)
    pick = np.argmax if fold.kind == "argmax" else np.argmin
    first = pick(key, axis=-1)[..., None]
    best = np.take_along_axis(key, first, -1)[..., 0]
    found = np.take_along_axis(companion, first, -1)[..., 0]
    better = best > totals[0] if fold.kind == "argmax" else best < totals[0]
    totals[0] = np.where(better, best, totals[0])
    totals[1] = np.where(better, found, totals[1])
