"""What happens where the command line itself is wrong, or asks for help."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from graphc.cli.report import print_error, printing
from graphc.error import NetError

WRONG_USAGE = 2
_PYDANTIC = "Value error, "  # it puts this before what typer says of a choice that is none


class Verb(TyperCommand):
    """A verb; its help may be read by something that does not read to the end."""

    def make_context(self, *given: Any, **more: Any) -> Any:
        with printing():
            try:
                return super().make_context(*given, **more)
            except typer.BadParameter as error:
                error.message = error.message.removeprefix(_PYDANTIC)
                raise


class Verbs(TyperGroup):
    """The verbs; where --json is among the words, wrong usage is told in JSON, too."""

    def make_context(self, *given: Any, **more: Any) -> Any:
        with printing():
            return super().make_context(*given, **more)

    def main(self, args: Sequence[str] | None = None, *more: Any, **rest: Any) -> Any:
        words = sys.argv[1:] if args is None else list(args)
        if "--json" not in words:
            return super().main(args, *more, **rest)
        try:
            code = super().main(words, *more, **{**rest, "standalone_mode": False})
        except Exception as error:
            message = getattr(error, "format_message", None)  # what typer's own errors have
            if message is None:
                raise
            print_error(NetError(message()), as_json=True)
            sys.exit(WRONG_USAGE)
        sys.exit(code if isinstance(code, int) else 0)
