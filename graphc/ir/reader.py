"""Reads the text of a Graph that `graphc.ir.printer` writes, or that a person wrote.

The grammar stands there, as a whole; here each method that reads one of its items states that item.
A line that is wrong is told and passed over, and the next one is read.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from collections.abc import Callable, Iterable
from typing import Any, get_args

import numpy as np

from graphc.error import Diagnostic, NetError, did_you_mean
from graphc.ir.fields import wrong_count, wrong_fields
from graphc.ir.graph import Graph, Origin, Role, Value
from graphc.ir.op import REGISTRY, Op
from graphc.ir.types import TensorType
from graphc.source import Source, Span

_DEEPEST = 8  # tuples in tuples that a field may hold
_LONGEST_NUMBER = 400  # characters; the longest that is printed, 1e-308 in full, has 330


def parse_graph(text: str, name: str = "<graph>") -> Graph:
    """The graph that `print_graph` prints so; `name` is what errors call the text.

    Raises NetError with line and caret for everything that is not in the grammar, values and
    operators that are unknown, fields an operator does not have, and types that it does not infer:
    one diagnostic for each line, none for what only follows from another.
    """
    return _Reader(Source(name, text)).graph()


def parse_op(text: str) -> Op:
    """The operator that `print_op` prints so. Raises NetError with a caret."""
    reader = _Reader(Source("<operator>", text))
    op, _ = reader.op()
    if reader.word != "":
        raise reader.error("expected the end of the operator")
    return op


_TOKENS = re.compile(
    r"""(?P<space>[ \t\r]+|\#[^\n]*)
      | (?P<line>\n)
      | (?P<value>%(?:"(?:[^"\\\n]|\\.)*"|[A-Za-z0-9_./\-]+(?::[A-Za-z0-9_./\-]+)*))
      | (?P<text>"(?:[^"\\\n]|\\.)*")
      | (?P<type>\w+\[[\d,\ \-]*\])
      | (?P<mark>[=,:()\[\]@*])
      | (?P<word>[A-Za-z0-9_./+\-]+(?::[A-Za-z0-9_./\-]+)*)
      | (?P<wrong>.)""",
    re.VERBOSE,
)
_MISFITS = (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, AssertionError)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?inf|nan")
_WORDS = {"True": True, "False": False, "None": None}


class _Reader:
    """Reads tokens from left to right; `kind`, `word` and `span` are those of the next one."""

    def __init__(self, source: Source):
        self.source = source
        self.tokens: list[tuple[str, str, Span]] = []
        for match in _TOKENS.finditer(source.text):
            kind = str(match.lastgroup)
            if kind != "space":
                self.tokens.append((kind, match[0], source.span(match.start(), match.end())))
        end = len(source.text)
        self.tokens.append(("line", "", source.span(end, end)))
        self.position = 0
        self.built = Graph()
        self.problems: list[Diagnostic] = []
        self.titled = False
        self.lost: set[str] = set()  # values of lines that could not be read
        self.kept: dict[str, Span] = {}
        self.renewed: dict[str, Span] = {}

    @property
    def kind(self) -> str:
        return self.tokens[self.position][0]

    @property
    def word(self) -> str:
        return self.tokens[self.position][1]

    @property
    def span(self) -> Span:
        return self.tokens[self.position][2]

    def error(self, message: str, span: Span | None = None, hint: str = "") -> NetError:
        found = "the end of the line" if self.kind == "line" else repr(self.word)
        message = f"{message}, found {found}" if message.startswith("expected") else message
        return NetError(Diagnostic(message, span or self.span, hint=hint))

    def take(self, *kinds: str, expected: str) -> str:
        if self.kind not in kinds:
            raise self.error(f"expected {expected}")
        word = self.word
        self.position += 1
        return word

    def mark(self, mark: str) -> None:
        if self.kind != "mark" or self.word != mark:
            raise self.error(f"expected '{mark}'")
        self.position += 1

    def accept(self, mark: str) -> bool:
        found = self.kind == "mark" and self.word == mark
        self.position += found
        return found

    # -- lines --

    def graph(self) -> Graph:
        """All lines: graph, input, node, end, keep or loss."""
        lines: dict[str, Callable[[], object]] = {
            "graph": self.title,
            "output": lambda: self.end(self.built.outputs),
            "update": self.update,
            "blob": lambda: self.end(self.built.blobs),
            "keep": self.keep,
            "loss": self.loss,
        }
        while self.position < len(self.tokens) - 1:
            start = self.position
            try:
                self.line(lines)
            except NetError as error:
                self.problems.extend(error.diagnostics)
                self.skip_line(start)
        self.refuse_ends()
        if self.problems:
            raise NetError(self.problems)
        return self.built

    def refuse_ends(self) -> None:
        """What the ends of a graph name may stand behind them; values that were lost may be it."""
        blobs = self.built.blobs
        for name, span in self.kept.items():
            if name.removesuffix(".diff") not in blobs and name not in blobs and not self.lost:
                hint = did_you_mean(name, blobs)
                self.problems += self.error(f"there is no blob '{name}'", span, hint).diagnostics
        states = {value.name: value for value in self.built.inputs("state")}
        for name, span in self.renewed.items():
            made = self.built.updates[name].type
            if name in states and states[name].type != made:
                said = f"state %{name} is {states[name].type}, not {made}"
                self.problems += self.error(said, span).diagnostics
            elif name not in states and name not in self.lost:
                hint = did_you_mean(name, states)
                self.problems += self.error(f"there is no state %{name}", span, hint).diagnostics

    def line(self, lines: dict[str, Callable[[], object]]) -> None:
        word = self.word
        if self.kind == "line":
            self.position += 1
            return
        if word in lines:
            self.position += 1
            lines[word]()
        elif word in get_args(Role):
            self.position += 1
            self.input(word)
        else:
            self.node([*lines, *get_args(Role)])
        if self.kind != "line":
            raise self.error("expected the end of the line")

    def skip_line(self, start: int) -> None:
        """Go on behind a line that could not be read; who reads what it makes is not to blame."""
        self.position = start
        while self.kind != "line":
            kind, word, _ = self.tokens[self.position]
            following = self.tokens[self.position + 1][1]
            if kind == "value" and following == ":":
                with contextlib.suppress(
                    ValueError
                ):  # a name that is no quoted text has no readers
                    self.lost.add(json.loads(word[1:]) if word[1:2] == '"' else word[1:])
            self.position += 1

    def title(self) -> None:
        """The line "graph" NAME, behind its first word."""
        span = self.span
        if self.titled:
            raise self.error("a second line 'graph'; a text holds one graph", span)
        self.built.name, self.titled = self.name("the graph's name"), True

    def keep(self) -> None:
        """The line "keep" NAME, behind its first word."""
        span = self.span
        name = self.name("a blob's name")
        self.built.kept.add(name)
        self.kept[name] = span

    def update(self) -> None:
        """The line "update" NAME "=" VALUE, behind its first word."""
        span = self.span
        self.renewed[self.end(self.built.updates)] = span

    def input(self, role: Any) -> None:
        """ROLE VALUE ":" TYPE, and "=" DATA for a constant."""
        span = self.span
        name = self.new_value()
        self.mark(":")
        type = self.type()
        if role == "constant":
            self.mark("=")
            self.built.constants[name] = self.data(type)
        self.within(span, lambda: self.built.input(name, type, role))

    def node(self, starts: list[str]) -> None:
        """[VALUE ":" TYPE {"," VALUE ":" TYPE} "="] OPERATOR [VALUE {"," VALUE}] [origin]"""
        names, types, spans = [], [], []
        if self.kind == "value":
            while True:
                spans.append(self.span)
                names.append(self.new_value())
                self.mark(":")
                types.append(self.type())
                if not self.accept(","):
                    break
            self.mark("=")
        op, span = self.op(() if names else starts)
        inputs = []
        if self.kind == "value":
            inputs.append(self.value())
            while self.accept(","):
                inputs.append(self.value())
        origin = self.origin()
        if self.kind != "line":
            raise self.error("expected the end of the line")
        wrong = wrong_count(op, len(inputs))
        if wrong:
            raise self.error(wrong, span)
        made = self.within(span, lambda: self.built.apply(op, *inputs, names=names, origin=origin))
        if len(made) != len(names):
            raise self.error(f"'{op.op_name}' gives {len(made)} values, not {len(names)}", span)
        for value, name, type, place in zip(made, names, types, spans, strict=True):
            if value.name != name:
                raise self.error(f"'{name}' is named twice", place)
            if value.type != type:
                raise self.error(f"%{name} is {value.type}, not {type}", place)

    def origin(self) -> Origin:
        """["@" LAYER KIND ["backward"]]"""
        if not self.accept("@"):
            return Origin()
        layer, kind = self.name("a layer's name"), self.name("a layer's type")
        backward = self.kind == "word" and self.word == "backward"
        self.position += backward
        return Origin(layer, kind, backward=backward)

    def end(self, table: dict[str, Value]) -> str:
        """NAME "=" VALUE, entered in `table`; returns the name."""
        span = self.span
        name = self.name("a name")
        if name in table:
            raise self.error(f"'{name}' is given twice", span)
        self.mark("=")
        table[name] = self.value()
        return name

    def loss(self) -> None:
        """The line "loss" VALUE "*" NUMBER, behind its first word."""
        value = self.value()
        self.mark("*")
        span = self.span
        weight = self.literal()
        if not isinstance(weight, float | int):
            raise self.error("a loss weight is a number", span)
        self.built.losses.append((value, float(weight)))

    # -- parts --

    def within(self, span: Span, build: Callable[[], Any]) -> Any:
        """Run `build`; what it refuses is reported at `span`."""
        try:
            return build()
        except NetError as error:
            raise NetError(Diagnostic(error.diagnostics[0].message, span)) from None
        except _MISFITS as error:
            # What an operator says of its own accord is a NetError; this is one it did not foresee.
            said = f"these fields and inputs do not go together ({error})"
            raise NetError(Diagnostic(said, span)) from None

    def name(self, expected: str) -> str:
        if self.kind == "text":
            return str(self.literal())
        return self.take("word", expected=expected)

    def new_value(self) -> str:
        span = self.span
        name = self.take("value", expected="a value such as %data")[1:]
        name = self.unquoted(name, span) if name.startswith('"') else name
        if name in self.built.values:
            raise self.error(f"there are two values %{name}", span)
        return name

    def value(self) -> Value:
        span = self.span
        name = self.take("value", expected="a value such as %data")[1:]
        name = self.unquoted(name, span) if name.startswith('"') else name
        if name in self.lost and name not in self.built.values:
            raise NetError([])  # the line that makes it has been refused
        if name not in self.built.values:
            raise self.error(f"there is no value %{name} so far", span, self.value_hint(name))
        return self.built.values[name]

    def value_hint(self, name: str) -> str:
        """Where a value that is not there is made further down, or what else is meant."""
        for (kind, word, span), (_, after, _) in itertools.pairwise(self.tokens[self.position :]):
            if kind == "value" and after == ":" and word in (f"%{name}", f"%{json.dumps(name)}"):
                return f"line {span.line} makes it; a line reads what stands above it"
        return did_you_mean(name, self.built.values)

    def type(self) -> TensorType:
        span = self.span
        text = self.take("type", expected="a type such as float32[2, 3]")
        type: TensorType = self.within(span, lambda: TensorType.parse(text))
        return type

    def op(self, others: Iterable[str] = ()) -> tuple[Op, Span]:
        """OPERATOR ["(" FIELD {"," FIELD} ")"]; `others` could stand here as well, for hints."""
        span = self.span
        name = self.take("word", expected="an operator")
        if name not in REGISTRY:
            hint = did_you_mean(name, [*REGISTRY, *others])
            raise self.error(f"there is no operator '{name}'", span, hint)
        fields: dict[str, Any] = {}
        if self.accept("("):
            while not self.accept(")"):
                place = self.span
                field = self.take("word", expected="a field's name")
                if field in fields:
                    raise self.error(f"field '{field}' is given twice", place)
                self.mark("=")
                fields[field] = self.literal()
                if not (self.kind == "mark" and self.word == ")"):
                    self.mark(",")
        wrong = wrong_fields(REGISTRY[name], fields)
        if wrong is not None:
            raise self.error(wrong[0], span, wrong[1])
        op: Op = self.within(span, lambda: REGISTRY[name](**fields))
        return op, span

    def literal(self, depth: int = 0) -> Any:
        """A number, a quoted text, True, False, None, or a tuple of literals."""
        span = self.span
        if self.accept("("):
            if depth == _DEEPEST:
                raise self.error(f"a field holds at most {_DEEPEST} tuples in each other", span)
            items = []
            while not self.accept(")"):
                items.append(self.literal(depth + 1))
                if not (self.kind == "mark" and self.word == ")"):
                    self.mark(",")
            return tuple(items)
        if self.kind == "text":
            return self.unquoted(self.take("text", expected="a text"), span)
        word = self.take("word", expected="a number, a text, True, False, None or a tuple")
        if word in _WORDS:
            return _WORDS[word]
        if len(word) > _LONGEST_NUMBER:
            raise self.error(f"a number of {len(word)} characters", span)
        if not _NUMBER.fullmatch(word):
            raise self.error(f"'{word}' is no number, text, True, False, None or tuple", span)
        return int(word) if re.fullmatch(r"[+-]?\d+", word) else float(word)

    def unquoted(self, text: str, span: Span) -> str:
        try:
            return str(json.loads(text))
        except ValueError:
            raise self.error(f"{text} is no quoted text", span) from None

    def data(self, type: TensorType) -> np.ndarray:
        """DATA: "[" [NUMBER {"," NUMBER}] "]", or hex:DIGITS; the elements of `type`."""
        span = self.span
        if self.kind == "word" and self.word.startswith("hex:"):
            digits = self.take("word", expected="data")[4:]
            width = 2 * np.dtype(type.dtype).itemsize
            if not re.fullmatch(r"[0-9a-fA-F]*", digits) or len(digits) % width:
                raise self.error(f"hex: takes {width} digits for each {type.dtype}", span)
            items = np.frombuffer(bytes.fromhex(digits), np.dtype(type.dtype).newbyteorder("<"))
        else:
            self.mark("[")
            numbers = []
            while not self.accept("]"):
                place = self.span
                numbers.append(self.literal())
                if not isinstance(numbers[-1], int | float):
                    raise self.error("the data of a constant are numbers", place)
                if not (self.kind == "mark" and self.word == "]"):
                    self.mark(",")
            items = self.within(span, lambda: np.asarray(numbers, type.dtype))
        if items.size != type.size:
            raise self.error(f"{type} needs {type.size} numbers, given are {items.size}", span)
        return items.astype(type.dtype).reshape(type.shape)
