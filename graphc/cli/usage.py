"""What happens where the command line itself is wrong."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from typer.core import TyperGroup

from graphc.cli.report import print_error
from graphc.error import NetError

WRONG_USAGE = 2


class Verbs(TyperGroup):
    """The verbs; where --json is among the words, wrong usage is told in JSON, too."""

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
