"""Lines of C++ with their indentation, and names that do not meet."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

# What kernels may not call a variable: words of the language, and what the prelude defines.
_TAKEN = """
    auto bool break case char class const continue default delete do double else enum extern false
    float for goto if inline int long new operator private public register return short signed
    sizeof static struct switch template this true typedef union unsigned using void volatile while
    asm error first_check tile least most magnitude infinity report exp log pow floor round tanh
    sqrt sigmoid sum left right part value first row column batch term line a b i j k m n x y g q
    slot along inside turn total at bt copy_left copy_right copy_async end_of_copies wait_for_copies
    parts turns start graphc_shared to_tf32 multiply_16x8x8 lane each Together Two Four four put
    left_at left_in right_at right_in
"""
_NUMBERED = ("index", "along", "left_index", "right_index")  # with a digit behind


class Text:
    """C++ that is being written."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._depth = 0

    def line(self, content: str = "") -> None:
        """One line."""
        self.lines.append("  " * self._depth + content if content else "")

    @contextlib.contextmanager
    def block(self, head: str) -> Iterator[None]:
        """What is written inside stands in braces after `head`."""
        self.line(f"{head} {{" if head else "{")
        with self.indented():
            yield
        self.line("}")

    @contextlib.contextmanager
    def unrolled(self, name: str, end: int, step: int = 1) -> Iterator[None]:
        """A block run for `name` = 0, `step`, ... below `end`, with no loop in machine code."""
        self.line("#pragma unroll")
        advance = f"++{name}" if step == 1 else f"{name} += {step}"
        with self.block(f"for (int {name} = 0; {name} < {end}; {advance})"):
            yield

    @contextlib.contextmanager
    def indented(self) -> Iterator[None]:
        """What is written inside stands one step to the right."""
        self._depth += 1
        yield
        self._depth -= 1

    def __str__(self) -> str:
        return "\n".join(self.lines) + "\n"


class Names:
    """Identifiers of one function, each given once."""

    def __init__(self) -> None:
        self._taken: set[str] = set(_TAKEN.split())
        self._taken |= {f"{word}{digit}" for word in _NUMBERED for digit in range(10)}

    def fresh(self, wish: str) -> str:
        """An identifier like `wish`."""
        word = identifier(wish)
        name, number = word, 2
        while name in self._taken:
            name, number = f"{word}_{number}", number + 1
        self._taken.add(name)
        return name


def identifier(wish: str) -> str:
    """A word that C++ takes, as close to `wish` as it can be."""
    word = re.sub(r"\W", "_", wish, flags=re.ASCII)
    return word if word and not word[0].isdigit() else f"v{word}"


def comment(content: str) -> str:
    """A text of the user's, so that it stays inside of a `//` comment."""
    return re.sub(r"[^\x20-\x7e]", "?", content).rstrip("\\ ")
