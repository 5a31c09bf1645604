"""Reads the text of a Kernel back: what `graphc.kernel.text` prints, or what a test holds."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from graphc.error import NetError, did_you_mean
from graphc.ir.types import DTYPES, REAL, TensorType
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
    Winograd,
)

_FOLDS = ("sum", "max", "min", "prod", "argmax", "argmin")
_CASTS = (*DTYPES, BOOL)

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>-?(?:inf|nan)\b|-?\d+(?:\.\d*)?(?:e[+-]?\d+)?)
    | (?P<text>"(?:[^"\\]|\\.)*")
    | (?P<name>[A-Za-z_][\w.+]*)
    | (?P<sign>\+=|[][(),:=])
    )""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str


def _tokens(line: str) -> list[_Token]:
    found = []
    place = 0
    line = line.rstrip()
    while place < len(line):
        match = _TOKEN.match(line, place)
        if not match or match.lastgroup is None:
            raise NetError(f"cannot read '{line[place:].strip()}'")
        kind, text = match.lastgroup, match[match.lastgroup]
        if kind == "name" and text.endswith("+") and line[match.end() : match.end() + 1] == "=":
            raise NetError(f"a space is missing before '+=' after '{text[:-1]}'")
        found.append(_Token(kind, text))
        place = match.end()
    return found


def parse_kernel(text: str) -> Kernel:
    """Read what `print_kernel` prints; `#` begins a comment. Raises NetError naming the line."""
    head: _Head | None = None
    body: list[Statement] = []
    for number, line in enumerate(text.splitlines(), 1):
        line = re.sub(r'^((?:[^"#]|"(?:[^"\\]|\\.)*")*)#.*$', r"\1", line)
        if not line.strip():
            continue
        try:
            reader = _Reader(_tokens(line), head)
            if head is None:
                head = reader.head()
            else:
                body.append(reader.statement())
            reader.end()
        except NetError as error:
            raise NetError(f"kernel text, line {number}: {error}") from None
    if head is None:
        raise NetError("kernel text, line 1: no 'kernel NAME(...)' line")
    stored = {s.buffer.name for s in body if isinstance(s, Store)}
    formals = list(head.buffers.values())
    if head.winograd is not None:
        stored.add(head.winograd.work)
    inputs = tuple(b for b in formals if b.name not in stored)
    outputs = tuple(b for b in formals if b.name in stored)
    return Kernel(head.name, inputs, outputs, head.each, tuple(body), head.winograd, head.unread)


class _Head:
    """The first line, and the locals that statements have set so far."""

    def __init__(
        self,
        name: str,
        buffers: dict[str, Buffer],
        each: tuple[Axis, ...],
        winograd: Winograd | None = None,
        unread: tuple[str, ...] = (),
    ):
        self.name = name
        self.buffers = buffers
        self.each = each
        self.winograd = winograd
        self.unread = unread
        self.locals: dict[str, Local] = {}


class _Reader:
    """Reads one line."""

    def __init__(self, tokens: list[_Token], head: _Head | None):
        self.tokens = tokens
        self.place = 0
        self._head = head
        self.axes: dict[str, Axis] = {axis.name: axis for axis in head.each} if head else {}

    # -- tokens --

    def peek(self, ahead: int = 0) -> str:
        place = self.place + ahead
        return self.tokens[place].text if place < len(self.tokens) else ""

    def kind(self, ahead: int = 0) -> str:
        place = self.place + ahead
        return self.tokens[place].kind if place < len(self.tokens) else "end"

    def take(self, kind: str, what: str) -> str:
        if self.kind() != kind:
            raise NetError(f"expected {what}, found '{self.peek() or 'the end of the line'}'")
        self.place += 1
        return self.tokens[self.place - 1].text

    def skip(self, text: str) -> bool:
        if self.peek() != text or self.kind() == "text":
            return False
        self.place += 1
        return True

    def expect(self, text: str) -> None:
        if not self.skip(text):
            raise NetError(f"expected '{text}', found '{self.peek() or 'the end of the line'}'")

    def end(self) -> None:
        if self.kind() != "end":
            raise NetError(f"did not expect '{self.peek()}' here")

    def whole(self) -> int:
        text = self.take("number", "a whole number")
        if not text.lstrip("-").isdigit():
            raise NetError(f"expected a whole number, found '{text}'")
        return int(text)

    # -- lines --

    def head(self) -> _Head:
        self.expect("kernel")
        name = self.take("name", "the kernel's name")
        self.expect("(")
        buffers: dict[str, Buffer] = {}
        while not self.skip(")"):
            buffer = self.buffer()
            if buffer.name in buffers:
                raise NetError(f"two buffers are called '{buffer.name}'")
            buffers[buffer.name] = buffer
            if self.peek() != ")":
                self.expect(",")
        each = self.loops() if self.skip("each") else ()
        winograd = self.winograd() if self.skip("winograd") else None
        return _Head(name, buffers, each, winograd, self.names() if self.skip("unread") else ())

    def winograd(self) -> Winograd:
        tile = self.whole()
        work = self.take("name", "the buffer to work in")
        has_filters = self.kind() == "name" and self.peek() != "unread"
        filters = self.take("name", "the buffer of the filters") if has_filters else None
        return Winograd(tile, work, filters)

    def names(self) -> tuple[str, ...]:
        names = [self.take("name", "a buffer")]
        while self.kind() == "name":
            names.append(self.take("name", "a buffer"))
        return tuple(names)

    def buffer(self) -> Buffer:
        name = self.take("name", "a buffer's name")
        self.expect(":")
        dtype = self.take("name", "an element type")
        self.expect("[")
        type = TensorType(dtype, self.numbers("]"))
        if not self.skip("strides"):
            return Buffer.of(name, type)
        self.expect("(")
        strides = self.numbers(")")
        if len(strides) != type.rank:
            raise NetError(f"'{name}' has {type.rank} axes and {len(strides)} strides")
        return Buffer(name, type.dtype, type.shape, strides)

    def numbers(self, close: str) -> tuple[int, ...]:
        found = []
        while not self.skip(close):
            found.append(self.whole())
            if self.peek() != close:
                self.expect(",")
        return tuple(found)

    def loops(self) -> tuple[Axis, ...]:
        axes = []
        while self.kind() == "name" and self.peek(1) == ":":
            name = self.take("name", "an axis")
            self.expect(":")
            axes.append(Axis(name, self.whole()))
        return tuple(axes)

    def statement(self) -> Statement:
        if self.peek() == "check" and self.peek(1) != "=":
            return self.check()
        if self.peek(1) == "[":
            return self.store()
        names = [self.take("name", "a local's name")]
        while self.skip(","):
            names.append(self.take("name", "a local's name"))
        self.expect("=")
        if self.peek() in _FOLDS and self.peek(1) != "(":
            return self.fold(names)
        if len(names) > 1:
            raise NetError(f"only a fold sets several locals; folds are {', '.join(_FOLDS)}")
        value = self.expr()
        return Let(self.define(names[0], value.dtype), value)

    def define(self, name: str, dtype: str) -> Local:
        local = Local(name, dtype)
        self.scope.locals[name] = local
        return local

    def fold(self, names: list[str]) -> Fold:
        kind = self.take("name", "a fold")
        axes = self.loops()
        self.axes.update({axis.name: axis for axis in axes})
        values = [self.expr()]
        while self.skip(","):
            values.append(self.expr())
        guard = self.expr() if self.skip("where") else None
        if len(values) != len(names):
            raise NetError(f"{len(names)} locals are set from {len(values)} values")
        results = tuple(self.define(n, v.dtype) for n, v in zip(names, values, strict=True))
        # The name is one of _FOLDS, or this would be no fold; mypy knows it as a word alone.
        return Fold(kind, results, tuple(values), axes, guard)  # type: ignore[arg-type]

    def store(self) -> Store:
        # The loops stand at the end of the line, but the index in front already uses them.
        texts = [token.text if token.kind == "name" else "" for token in self.tokens]
        axes: tuple[Axis, ...] = ()
        if "for" in texts:
            start, self.place = self.place, texts.index("for") + 1
            axes = self.loops()
            self.place = start
            self.axes.update({axis.name: axis for axis in axes})
        target = self.expr()
        assert isinstance(target, Load)
        adds = self.skip("+=")
        if not adds:
            self.expect("=")
        value = self.expr()
        if self.skip("for"):
            self.loops()
        guard = self.expr() if self.skip("where") else None
        return Store(target.buffer, target.index, value, axes, guard, "add" if adds else "set")

    def check(self) -> Check:
        self.expect("check")
        condition = self.expr()
        self.expect(",")
        message = json.loads(self.take("text", 'a message in "quotes"'))
        self.expect(",")
        return Check(condition, message, self.expr())

    # -- expressions --

    def expr(self) -> Expr:
        if self.kind() == "number":
            return self.number()
        name = self.take("name", "an expression")
        if name in ("inf", "nan"):
            raise NetError(f"'{name}' cannot be a name")
        if self.peek() == "(":
            return self.call(name)
        if self.peek() == "[":
            return self.load(name)
        if name in ("true", "false"):
            return Const(name == "true", BOOL)
        if name in self.axes:
            return Var(self.axes[name])
        if name in self.scope.locals:
            return self.scope.locals[name]
        hint = did_you_mean(name, [*self.axes, *self.scope.locals, *self.scope.buffers])
        raise NetError(f"nothing here is called '{name}'" + (f"; {hint}" if hint else ""))

    @property
    def scope(self) -> _Head:
        if self._head is None:
            raise NetError("an expression cannot stand here")
        return self._head

    def number(self) -> Const:
        text = self.take("number", "a number")
        whole = text.lstrip("-").isdigit()
        dtype = INDEX if whole else "float32"
        if self.skip(":"):
            dtype = self.take("name", "an element type")
        if dtype not in DTYPES:
            raise NetError(f"unknown element type '{dtype}'")
        if dtype not in REAL and not whole:
            raise NetError(f"{text} is no {dtype}")
        return Const(float(text) if dtype in REAL else int(text), dtype)

    def call(self, name: str) -> Expr:
        args = self.sequence("(", ")")
        if name in _CASTS:
            name, dtype = "cast", name
        elif name in FUNCTIONS and name != "cast":
            kind = FUNCTIONS[name][1]
            typed = {"same": 0, "second": -1}
            dtype = args[typed[kind]].dtype if kind in typed and args else kind
        else:
            hint = did_you_mean(name, FUNCTIONS)
            raise NetError(f"kernels have no function '{name}'" + (f"; {hint}" if hint else ""))
        if len(args) != FUNCTIONS[name][0]:
            raise NetError(f"'{name}' takes {FUNCTIONS[name][0]} arguments, not {len(args)}")
        return Call(name, tuple(args), dtype)

    def load(self, name: str) -> Load:
        if name not in self.scope.buffers:
            hint = did_you_mean(name, self.scope.buffers)
            raise NetError(f"no buffer is called '{name}'" + (f"; {hint}" if hint else ""))
        buffer = self.scope.buffers[name]
        index = self.sequence("[", "]")
        if len(index) != len(buffer.shape):
            raise NetError(f"{name} has {len(buffer.shape)} axes, an index has {len(index)}")
        return Load(buffer, tuple(index))

    def sequence(self, opening: str, close: str) -> list[Expr]:
        self.expect(opening)
        found: list[Expr] = []
        while not self.skip(close):
            found.append(self.expr())
            if self.peek() != close:
                self.expect(",")
        return found
