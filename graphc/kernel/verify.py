"""Whether a kernel keeps the rules of `graphc.kernel.lang`.

What can be decided from the text alone is refused with a sentence: names, dtypes, scopes, indices
that are affine and leave their buffer, iterations that write over each other's elements. Indices
that depend on data are the operator's to clamp and check.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.error import NetError
from graphc.ir.types import DTYPES, REAL
from graphc.kernel.affine import Affine, affine, bounds
from graphc.kernel.lang import (
    BOOL,
    FUNCTIONS,
    INDEX,
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
    Statement,
    Store,
    Var,
)
from graphc.kernel.text import RESERVED, print_expr, print_statement

_INTEGERS_ONLY = ("floordiv", "mod")
_REALS_ONLY = (
    "div", "exp", "log", "log1p", "expm1", "sqrt", "tanh", "sigmoid", "pow", "floor", "round",
)  # fmt: skip


def verify(kernel: Kernel) -> None:
    """Raise NetError with one sentence on the first rule that `kernel` breaks."""
    _Verifier(kernel).run()


def determines(forms: Sequence[Affine | None], axes: Sequence[Axis]) -> bool:
    """Whether the values of the forms together tell every variable of `axes` (proved, not tried).

    A form tells its variables where, sorted by their factors, each factor is larger than all that
    the smaller ones can sum to, as digits of a number do. Variables known from one form help with
    the next.
    """
    known = {axis for axis in axes if axis.extent <= 1}
    progress = True
    while progress:
        progress = False
        for form in forms:
            terms = [] if form is None else [t for t in form.terms if t[0] not in known]
            terms = [(axis, factor) for axis, factor in terms if axis.extent > 1]
            if terms and _digits(terms):
                known |= {axis for axis, _ in terms}
                progress = True
    return known >= set(axes)


def _digits(terms: Sequence[tuple[Axis, int]]) -> bool:
    reach = 0
    for axis, factor in sorted(terms, key=lambda term: abs(term[1])):
        if abs(factor) <= reach:
            return False
        reach += abs(factor) * (axis.extent - 1)
    return True


class _Verifier:
    def __init__(self, kernel: Kernel):
        self.kernel = kernel
        self.place = "its head"
        self.locals: dict[str, Local] = {}
        self.axes: dict[str, Axis] = {}

    def need(self, condition: object, message: str) -> None:
        if not condition:
            raise NetError(f"kernel '{self.kernel.name}', {self.place}: {message}")

    def run(self) -> None:
        names: set[str] = set()
        for buffer in self.kernel.buffers:
            self.name(buffer.name, names)
            self.need(buffer.dtype in DTYPES, f"unknown element type '{buffer.dtype}'")
            self.need(
                len(buffer.shape) == len(buffer.strides),
                f"{buffer.name} has {len(buffer.shape)} axes and {len(buffer.strides)} strides",
            )
        for axis in self.kernel.each:
            self.name(axis.name, names)
            self.axes[axis.name] = axis
        self.taken = names
        for statement in self.kernel.body:
            self.place = f"'{print_statement(statement)}'"
            self.statement(statement)
        stored = {s.buffer for s in self.kernel.body if isinstance(s, Store)}
        self.place = "its end"
        way = self.kernel.winograd
        if way is not None:
            inputs, outputs = (
                {b.name for b in s} for s in (self.kernel.inputs, self.kernel.outputs)
            )
            self.need(way.filters in (None, *inputs), f"{way.filters} is no input")
            self.need(way.work in outputs, f"{way.work} is no output")
        for name in self.kernel.unread:
            self.need(name in {b.name for b in self.kernel.outputs}, f"{name} is no output")
        for buffer in self.kernel.outputs:
            if way is not None and buffer.name == way.work:
                continue
            self.need(buffer in stored, f"nothing is stored to output {buffer.name}")

    def name(self, name: str, taken: set[str]) -> None:
        self.need(name not in taken, f"two things are called '{name}'")
        self.need(name not in RESERVED, f"'{name}' is a word of the language, it cannot be a name")
        taken.add(name)

    # -- statements --

    def statement(self, statement: Statement) -> None:
        own: tuple[Axis, ...] = getattr(statement, "axes", ())
        self.loops(own)
        if isinstance(statement, Let):
            self.expr(statement.value, own)
            self.define(statement.local, statement.value)
        elif isinstance(statement, Check):
            self.expr(statement.condition, own)
            self.expr(statement.value, own)
            self.need(statement.condition.dtype == BOOL, "the condition is not a bool")
        elif isinstance(statement, Fold):
            self.fold(statement)
        else:
            self.store(statement)

    def loops(self, own: tuple[Axis, ...]) -> None:
        self.need(len(set(own)) == len(own), "an axis occurs twice")
        for axis in own:
            self.need(axis not in self.kernel.each, f"{axis.name} is a loop of 'each' already")
            if axis.name not in self.axes:
                self.name(axis.name, self.taken)
            self.axes.setdefault(axis.name, axis)
            self.need(self.axes[axis.name] == axis, f"{axis.name} has two extents")

    def define(self, local: Local, value: Expr) -> None:
        self.name(local.name, self.taken)
        self.need(
            local.dtype == value.dtype, f"{local.name} is {local.dtype}, its value {value.dtype}"
        )
        self.locals[local.name] = local

    def guard(self, where: Expr | None, own: tuple[Axis, ...]) -> None:
        if where is not None:
            self.expr(where, own)
            self.need(where.dtype == BOOL, "the guard is not a bool")

    def fold(self, fold: Fold) -> None:
        self.guard(fold.where, fold.axes)
        count = len(fold.values)
        self.need(count == len(fold.locals), f"{count} values for {len(fold.locals)} locals")
        if fold.kind in ("argmax", "argmin"):
            self.need(count == 2, f"{fold.kind} takes a key and a companion")
        for value in fold.values:
            self.expr(value, fold.axes, fold.where is not None)
            self.need(value.dtype != BOOL, "a bool cannot be folded")
        for local, value in zip(fold.locals, fold.values, strict=True):
            self.define(local, value)

    def store(self, store: Store) -> None:
        self.guard(store.where, store.axes)
        guarded = store.where is not None
        buffer = store.buffer
        self.need(buffer in self.kernel.outputs, f"{buffer.name} is not an output")
        self.index(buffer, store.index, store.axes, guarded)
        self.expr(store.value, store.axes, guarded)
        self.need(
            store.value.dtype == buffer.dtype,
            f"{buffer.name} holds {buffer.dtype}, not {store.value.dtype}",
        )
        if not guarded:
            self.writes_apart(store)

    def writes_apart(self, store: Store) -> None:
        """Different iterations must store to different elements, as far as affine indices tell."""
        forms = [affine(i) for i in store.index]
        loops = (*self.kernel.each, *store.axes)
        if None in forms or any(axis.extent == 0 for axis in loops):
            return
        apart = self.kernel.each if store.mode == "add" else loops
        self.need(
            determines(forms, apart),
            f"iterations of {', '.join(axis.name for axis in apart)} may store to the same element"
            f" of {store.buffer.name}",
        )

    # -- expressions --

    def expr(self, expr: Expr, own: tuple[Axis, ...], guarded: bool = False) -> None:
        if isinstance(expr, Const):
            self.need(expr.dtype in (*DTYPES, BOOL), f"unknown element type '{expr.dtype}'")
        elif isinstance(expr, Var):
            self.need(
                expr.axis in (*self.kernel.each, *own), f"nothing runs over {expr.axis.name} here"
            )
            self.need(expr.dtype == INDEX, f"loop variable {expr.axis.name} is not {INDEX}")
        elif isinstance(expr, Local):
            self.need(expr.name in self.locals, f"{expr.name} is used before it is set")
            self.need(self.locals[expr.name] == expr, f"{expr.name} has two dtypes")
        elif isinstance(expr, Load):
            self.need(expr.buffer in self.kernel.buffers, f"{expr.buffer.name} is no argument")
            self.index(expr.buffer, expr.index, own, guarded)
        else:
            assert isinstance(expr, Call)
            for part in expr.args:
                self.expr(part, own, guarded)
            self.call(expr)

    def call(self, expr: Call) -> None:
        text = print_expr(expr)
        self.need(expr.function in FUNCTIONS, f"there is no function '{expr.function}'")
        count, kind = FUNCTIONS[expr.function]
        self.need(len(expr.args) == count, f"'{expr.function}' takes {count} arguments")
        checked = expr.args[1:] if expr.function == "select" else expr.args
        found = {a.dtype for a in checked}
        self.need(len(found) == 1, f"{text} mixes {', '.join(sorted(found))}")
        dtype = checked[0].dtype
        wanted = {"same": dtype, "second": dtype, "given": expr.dtype}.get(kind, kind)
        self.need(expr.dtype == wanted, f"{text} is {wanted}, not {expr.dtype}")
        if expr.function == "select":
            self.need(expr.args[0].dtype == BOOL, f"{text} chooses by a {expr.args[0].dtype}")
        elif expr.function in ("and", "or", "not"):
            self.need(dtype == BOOL, f"{text} wants bools, not {dtype}")
        elif expr.function in _INTEGERS_ONLY or expr.function == "random_bits":
            self.need(dtype not in (*REAL, BOOL), f"{text} wants integers, not {dtype}")
        elif expr.function in _REALS_ONLY:
            self.need(dtype in REAL, f"{text} wants reals, not {dtype}")

    def index(
        self, buffer: Buffer, index: tuple[Expr, ...], own: tuple[Axis, ...], guarded: bool
    ) -> None:
        rank = len(buffer.shape)
        self.need(len(index) == rank, f"{buffer.name} has {rank} axes, an index {len(index)}")
        for part in index:
            self.expr(part, own, guarded)
            self.need(part.dtype == INDEX, f"index {print_expr(part)} is {part.dtype}")
        if guarded or any(axis.extent == 0 for axis in (*self.kernel.each, *own)):
            return
        for part, extent in zip(index, buffer.shape, strict=True):
            form = affine(part)
            if form is None:
                continue
            low, high = bounds(form)
            self.need(
                low >= 0 and high < extent,
                f"index {print_expr(part)} of {buffer.name} runs over {low} .. {high},"
                f" outside 0 .. {extent - 1}, and no guard stands before it",
            )
