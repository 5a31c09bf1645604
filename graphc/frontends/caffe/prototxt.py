"""A reader of protobuf's text format that keeps places and goes on after an error.

protobuf's own reader stops at the first mistake and forgets where things stood. This one reports
all mistakes of a file at once, and takes what web pages and editors do to a text in its stride.
After a mistake it assumes what was most likely meant and reads on: a misspelt field is read as the
one it resembles, a message that was left open is closed where its parent's next field begins.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from graphc.error import Diagnostic, NetError, did_you_mean
from graphc.frontends.caffe import schema
from graphc.frontends.caffe.cursor import Cursor, TooManyErrorsError
from graphc.frontends.caffe.literal import LiteralError, scalar_value, string_value
from graphc.frontends.caffe.message import Field, Message
from graphc.frontends.caffe.tokens import Token
from graphc.source import Source, Span
from graphc.unreadable import looks_like, unreadable

LARGEST_TEXT = 1 << 28
BYTE_ORDER_MARK = "\ufeff"  # editors on Windows put it in front of UTF-8; protobuf skips it
_CLOSING = {"{": "}", "<": ">"}

_OLD_FIELDS = {
    "blobs_lr": "in a 'layer' this is written 'param { lr_mult: ... }'",
    "weight_decay": "in a 'layer' this is written 'param { decay_mult: ... }'",
    "blob_share_mode": "in a 'layer' this is written 'param { share_mode: ... }'",
}


@dataclass
class Parsed:
    """What a text holds.

    `errors` is empty for a correct text. `usable` says that the errors, if any, leave no doubt
    about the names in the text, so that checks of how its layers connect still make sense.
    """

    message: Message
    errors: list[Diagnostic]
    warnings: list[Diagnostic]
    usable: bool


def read_source(text: str | Path | Source) -> Source:
    """The source for a text (a string that holds a newline or `{`), or for a file's path.

    Raises NetError where the file cannot be read, is too large or is not UTF-8.
    """
    if isinstance(text, Source):
        return text
    if isinstance(text, str) and ("\n" in text or "{" in text):
        return Source("<text>", text.removeprefix(BYTE_ORDER_MARK))
    try:
        with Path(text).open("rb") as file:
            data = file.read(LARGEST_TEXT + 1)
    except (OSError, ValueError) as error:
        raise unreadable(text, error) from None
    if len(data) > LARGEST_TEXT:
        raise NetError(f"'{text}' is larger than {LARGEST_TEXT >> 20} MiB: not a net definition")
    try:
        return Source(str(text), data.decode().removeprefix(BYTE_ORDER_MARK))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start]
        raise NetError(
            f"'{text}' is not UTF-8 text: byte 0x{byte:02x} at offset {error.start}, line {line}"
            f"{looks_like(text, data)}"
        ) from None


def parse(source: Source, message: str = "NetParameter") -> Parsed:
    """Read a text as message `message`, with all its errors. Raises nothing for a bad text."""
    return _Reader(source, schema.descriptor(message)).read()


def read_message(
    text: str | Path | Source, message: str = "NetParameter"
) -> tuple[Message, list[Diagnostic]]:
    """Read a text or file as message `message`; gives it and the warnings.

    Raises NetError with every error of the text.
    """
    parsed = parse(read_source(text), message)
    if parsed.errors:
        raise NetError(parsed.errors)
    return parsed.message, parsed.warnings


@dataclass
class _Open:
    """A message whose closing brace has not come yet."""

    message: Message
    opener: Token
    closing: str
    list_field: FieldDescriptor | None = None
    reopened: bool = False
    # A closing brace that by its indentation belongs here but closed an inner message.
    suspect: tuple[Token, Token] | None = None
    seen: set[str] = field(default_factory=set)


class _Reader(Cursor):
    def __init__(self, source: Source, descriptor: Descriptor):
        super().__init__(source)
        root = Message(descriptor, source.span(0, 0))
        self.stack = [_Open(root, Token("mark", "", 0, 0), "")]
        self.last_closed: _Open | None = None

    def read(self) -> Parsed:
        try:
            while (token := self.peek()).kind != "end":
                self._entry(token)
            self._report_left_open()
            self._check_required(self.stack[0])
        except TooManyErrorsError:
            self.usable = False
        warning = self.lexer.warning()
        return Parsed(self.stack[0].message, self.errors, [warning] if warning else [], self.usable)

    # Entries of a message

    def _entry(self, token: Token) -> None:
        if token.kind == "mark" and token.text in "}>":
            self._close(self.next())
        elif token.kind == "word":
            self._field(token)
        else:
            self._unexpected(token)

    def _unexpected(self, token: Token) -> None:
        here = self.stack[-1].message.type_name
        self.report(f"expected a field of {here}, found {token}", self.span(token), doubtful=True)
        self.skip_to_field()

    def _field(self, name: Token) -> None:
        here = self.stack[-1]
        description = here.message.descriptor.fields_by_name.get(name.text)
        if description is None:
            if not self._closes_outer(name) and not self._reopen(name):
                self.next()
                self._unknown_field(name)
            return
        self.next()
        if description.name in here.seen and not schema.is_repeated(description):
            self.report(
                f"'{name.text}' is given twice in this {here.message.type_name}",
                self.span(name),
                hint=f"the first is at {here.message.name_span_of(name.text)}",
            )
        self._content(name, description)

    def _content(self, name: Token, description: FieldDescriptor) -> None:
        """What follows the name of a known field."""
        if description.message_type is not None:
            self._message_content(name, description)
        else:
            self._scalar_content(name, description)

    def _message_content(self, name: Token, description: FieldDescriptor) -> None:
        colon = self.accept(":")
        token = self.peek()
        if token.kind == "mark" and token.text in "{<":
            self._open(name, description, self.next())
        elif token.kind == "mark" and token.text == "[":
            self.next()
            self._need_repeated(name, description)
            self._next_listed(name, description)
        else:
            self.report(
                f"'{name.text}' is a message: expected '{{' after it, found {token}",
                self.span(name),
                doubtful=True,
            )
            if not colon and token.kind == "word" and self.is_mark(1, ":{<"):
                self._open(name, description, Token("mark", "{", name.start, name.end))
            elif colon:
                self.skip_value()

    def _scalar_content(self, name: Token, description: FieldDescriptor) -> None:
        colon = self.accept(":")
        token = self.peek()
        if token.kind == "mark" and token.text in "{<":
            self.report(
                f"'{name.text}' is a single value: expected ':' and the value, found {token}",
                self.span(name),
                doubtful=True,
            )
            self.skip_group(self.next())
            return
        if not colon:
            self.report(f"expected ':' after '{name.text}'", self.span(name))
        if self.is_mark(0, "["):
            self._scalar_list(name, description)
        else:
            self._scalar(name, description)
        self.accept(",;")

    def _scalar_list(self, name: Token, description: FieldDescriptor) -> None:
        self._need_repeated(name, description)
        opening = self.next()
        if self.accept("]"):
            return
        while self._scalar(name, description):
            if self.accept("]"):
                return
            if not self.accept(","):
                break
        self.report("this list is not closed with ']'", self.span(opening), doubtful=True)

    def _need_repeated(self, name: Token, description: FieldDescriptor) -> None:
        if not schema.is_repeated(description):
            self.report(f"'{name.text}' takes one value, not a list", self.span(name))

    def _scalar(self, name: Token, description: FieldDescriptor) -> bool:
        """Read one value into the open message. False if none stands here."""
        first = self.peek()
        negative = self.accept("-")
        token = self.peek()
        misplaced = token.kind == "word" and self.is_mark(1, ":{")
        if token.kind in ("mark", "end") or misplaced:
            self.report(
                f"expected a value for '{name.text}', found {token}",
                self.span(name),
                doubtful=True,
            )
            return False
        tokens = [self.next()]
        while token.kind == "string" and self.peek().kind == "string":
            tokens.append(self.next())
        span = self.source.span(first.start, tokens[-1].end)
        try:
            if token.kind == "string" and not negative:
                value: Any = string_value(description, tokens)
            else:
                value = scalar_value(description, token, negative)
        except LiteralError as error:
            is_text = description.cpp_type == FieldDescriptor.CPPTYPE_STRING
            doubtful = is_text and error.guess is None
            self.report(str(error), span, error.hint, doubtful=doubtful)
            value = error.guess
        if value is None:
            self.stack[-1].message.refused.add(description.name)
        else:
            self._add(name, description, value, span)
        return True

    def _add(self, name: Token, description: FieldDescriptor, value: Any, span: Span) -> None:
        """Give the open message a value, unless it has one already and takes no second."""
        here = self.stack[-1]
        if schema.is_repeated(description) or description.name not in here.seen:
            here.seen.add(description.name)
            here.message.fields.append(Field(description.name, value, self.span(name), span))

    # Opening and closing messages

    def _open(
        self,
        name: Token,
        description: FieldDescriptor,
        brace: Token,
        list_field: FieldDescriptor | None = None,
    ) -> None:
        message = Message(schema.inner(description), self.span(name))
        self._add(name, description, message, message.span)
        self.stack.append(_Open(message, name, _CLOSING[brace.text], list_field))

    def _next_listed(self, name: Token, description: FieldDescriptor) -> None:
        """The next message of a `[{...}, {...}]`, or its end."""
        if self.accept("]"):
            self.accept(",;")
        elif self.is_mark(0, "{<"):
            self._open(name, description, self.next(), description)
        else:
            token = self.peek()
            self.report(
                f"expected '{{' or ']' in the list of '{name.text}', found {token}",
                self.span(token),
                doubtful=True,
            )

    def _close(self, brace: Token) -> None:
        if len(self.stack) == 1:
            self.report(f"this '{brace.text}' closes nothing", self.span(brace))
            return
        closed = self.stack.pop()
        self.last_closed = closed
        if brace.text != closed.closing:
            self.report(
                f"'{closed.opener.text}' is closed with '{brace.text}' "
                f"where '{closed.closing}' is expected",
                self.span(brace),
            )
        self._check_required(closed)
        if brace.leads and brace.indent < closed.opener.indent:
            for outer in self.stack[1:]:
                if outer.opener.indent == brace.indent and outer.suspect is None:
                    outer.suspect = closed.suspect or (closed.opener, brace)
        if closed.list_field is None:
            self.accept(",;")
        elif self.accept(",") or self.is_mark(0, "]"):
            self._next_listed(closed.opener, closed.list_field)
        else:
            self.report("expected ',' or ']' after this", self.span(brace), doubtful=True)

    def _check_required(self, closed: _Open) -> None:
        for description in closed.message.descriptor.fields:
            if schema.is_required(description) and description.name not in closed.seen:
                name = closed.message.type_name
                self.report(f"{name} needs a '{description.name}'", closed.message.span)

    def _closes_outer(self, name: Token) -> bool:
        """Whether a field unknown here shows that a message was left open; closes it if so."""
        level = len(self.stack) - 2
        while level >= 0:
            if name.text in self.stack[level].message.descriptor.fields_by_name:
                break
            level -= 1
        else:
            return False
        child = self.stack[level + 1]
        starts_layer = name.text in ("layer", "layers") and self.opens_message(1)
        outdented = name.leads and name.indent <= child.opener.indent
        if not starts_layer and not (outdented and name.start > child.opener.start):
            return False
        if not child.reopened:
            line = self.span(name).line
            self._report_open(level + 1, f"before the '{name.text}' of line {line}")
        while len(self.stack) > level + 1:
            self._check_required(self.stack.pop())
        return True

    def _report_left_open(self) -> None:
        if len(self.stack) > 1 and not self.stack[1].reopened:
            self._report_open(1, "before the end of the text")

    def _report_open(self, level: int, where: str) -> None:
        left = self.stack[level]
        inner = [f"'{open_.opener.text} {{'" for open_ in self.stack[level + 1 :]]
        hint = ""
        if left.suspect is not None:
            opener, brace = left.suspect
            hint = (
                f"the '{brace.text}' of line {self.span(brace).line} stands further left than "
                f"'{opener.text}' of line {self.span(opener).line}, which may be what is open"
            )
        elif inner:
            hint = f"{', '.join(inner)} inside it {'is' if len(inner) == 1 else 'are'} open too"
        brace_text = "{" if left.closing == "}" else "<"
        self.report(
            f"this '{left.opener.text} {brace_text}' is not closed: "
            f"a '{left.closing}' is missing {where}",
            left.message.span,
            hint,
        )

    def _reopen(self, name: Token) -> bool:
        """Go on with the last layer if its fields continue after its closing brace."""
        closed = self.last_closed
        if len(self.stack) > 1 or closed is None:
            return False
        if name.text not in closed.message.descriptor.fields_by_name:
            return False
        self.report(
            f"'{name.text}' stands after the '{closed.closing}' that closes "
            f"'{closed.opener.text}' of line {closed.message.span.line}",
            self.span(name),
            hint=f"is there one '{closed.closing}' too many before it?",
        )
        closed.reopened = True
        self.stack.append(closed)
        return True

    # Unknown fields

    def _unknown_field(self, name: Token) -> None:
        here = self.stack[-1].message
        known = here.descriptor.fields_by_name
        hint = did_you_mean(name.text, known)
        meant = known[hint.split("'")[1]] if hint else None
        if meant is not None and name.text.endswith(f"_{meant.name}"):
            hint, meant = "", None  # no slip: roi_pooling_param is what another layer has
        homes = [
            child.name
            for child in here.descriptor.fields
            if child.message_type and name.text in child.message_type.fields_by_name
        ]
        if name.text in _OLD_FIELDS and here.type_name == "LayerParameter":
            hint, meant = _OLD_FIELDS[name.text], None
        elif homes and here.type_name != "NetParameter":
            more = " ..." if len(homes) > 3 else ""
            hint, meant = f"it belongs inside {' or '.join(homes[:3])}{more}", None
        elif not hint:
            hint = self._outer_home(name.text)
        # A string under an unknown name may have been meant as the name of a blob.
        carries_names = here.type_name in ("NetParameter", "LayerParameter", "V1LayerParameter")
        is_number = self.is_mark(0, ":") and self.peek(1).kind == "number"
        shown = name.text if len(name.text) <= 60 else name.text[:60] + "..."
        self.report(
            f"{here.type_name} has no field '{shown}'",
            self.span(name),
            hint,
            doubtful=carries_names and not (meant or homes or is_number or self.opens_message(0)),
        )
        self._unknown_content(name, meant)

    def _outer_home(self, name: str) -> str:
        for outer in reversed(self.stack[:-1]):
            if name in outer.message.descriptor.fields_by_name:
                home = outer.message.type_name
                return f"'{name}' is a field of {home}: is a '}}' missing before it?"
        return ""

    def _unknown_content(self, name: Token, meant: FieldDescriptor | None) -> None:
        """Read what follows an unknown name as the field it resembles, or step over it."""
        is_message = self.opens_message(0)
        has_value = is_message or self.is_mark(0, ":")
        if meant is not None and has_value and (meant.message_type is not None) == is_message:
            self._content(name, meant)
        elif is_message:
            self.accept(":")
            self.skip_group(self.next())
        elif has_value:
            self.next()
            self.skip_value()
        else:
            self.skip_to_field()
