"""Walking over the words of a text: looking ahead, stepping over what has no place, reporting."""

from __future__ import annotations

from collections import deque

from graphc.error import Diagnostic
from graphc.frontends.caffe.tokens import Lexer, Token
from graphc.source import Source, Span

MOST_ERRORS = 50
# So many characters are no text that someone reads and mends: a few errors tell what it is.
LONG_TEXT = 1 << 20
MOST_ERRORS_OF_LONG_TEXT = 5


class TooManyErrorsError(Exception):
    """Ends the reading of a text that is no net definition at all."""


class Cursor:
    """A place in the stream of words, and the errors found so far.

    `usable` turns false with an error that leaves a doubt about the names in the text.
    """

    def __init__(self, source: Source):
        self.source = source
        self.errors: list[Diagnostic] = []
        self.usable = True
        self.lexer = Lexer(source, self.report_doubtful)
        self.incoming = self.lexer.tokens()
        self.ahead: deque[Token] = deque()
        is_long = len(source.text) > LONG_TEXT
        self.most_errors = MOST_ERRORS_OF_LONG_TEXT if is_long else MOST_ERRORS

    def peek(self, distance: int = 0) -> Token:
        """The word so many words ahead; past the end, the end."""
        while len(self.ahead) <= distance:
            last = self.ahead[-1] if self.ahead else None
            self.ahead.append(last if last and last.kind == "end" else next(self.incoming))
        return self.ahead[distance]

    def next(self) -> Token:
        """The next word, which is then behind; the end stays."""
        token = self.peek()
        if token.kind != "end":
            self.ahead.popleft()
        return token

    def accept(self, marks: str) -> bool:
        """Step over the next word if it is one of these marks."""
        token = self.peek()
        if token.kind == "mark" and token.text in marks:
            self.next()
            return True
        return False

    def span(self, token: Token) -> Span:
        """The place of a word, at least one character long."""
        return self.source.span(token.start, max(token.end, token.start + 1))

    def report(self, message: str, span: Span, hint: str = "", doubtful: bool = False) -> None:
        """Note an error. Raises TooManyErrorsError with the last that is read for."""
        self.usable = self.usable and not doubtful
        self.errors.append(Diagnostic(message, span, hint=hint))
        if len(self.errors) >= self.most_errors:
            self.errors.append(Diagnostic("too many errors; the rest was not read", span))
            raise TooManyErrorsError

    def report_doubtful(self, diagnostic: Diagnostic) -> None:
        """Note an error that leaves a doubt about names."""
        assert diagnostic.span is not None
        self.report(diagnostic.message, diagnostic.span, diagnostic.hint, doubtful=True)

    def skip_to_field(self) -> None:
        """Step over words up to a line that starts with one, or to the end of the message."""
        started = False
        while (token := self.peek()).kind != "end":
            if token.kind == "mark" and token.text in "{<":
                self.skip_group(self.next())
            elif self.is_mark(0, "}>") or (started and token.kind == "word" and token.leads):
                return
            else:
                self.next()
            started = True

    def opens_message(self, distance: int) -> bool:
        """Whether a message begins so many words ahead, with or without a colon."""
        if self.is_mark(distance, ":"):
            distance += 1
        return self.is_mark(distance, "{<")

    def is_mark(self, distance: int, marks: str) -> bool:
        """Whether the word so many words ahead is one of these marks."""
        token = self.peek(distance)
        return token.kind == "mark" and token.text in marks

    def skip_value(self) -> None:
        """Step over a number, a word, texts that stand together, or a list."""
        if self.is_mark(0, "["):
            while self.peek().kind != "end" and not self.accept("]"):
                if self.is_mark(0, "}"):
                    return
                self.next()
        else:
            self.accept("-")
            if self.peek().kind != "mark":
                token = self.next()
                while token.kind == "string" and self.peek().kind == "string":
                    self.next()
        self.accept(",;")

    def skip_group(self, brace: Token) -> None:
        """Step over a message that has no place, up to its end or to the start of a layer."""
        depth = 1
        while depth and (token := self.peek()).kind != "end":
            starts_layer = token.leads and token.text in ("layer", "layers")
            if starts_layer and token.indent <= brace.indent and self.opens_message(1):
                break
            self.next()
            if token.kind == "mark":
                depth += (token.text in "{<") - (token.text in "}>")
        if depth:
            self.report("this message is not closed", self.span(brace), doubtful=True)
        self.accept(",;")
