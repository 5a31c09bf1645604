"""Tables in HTML: heads that sort, cells that know the number they show, everything escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote


@dataclass(frozen=True)
class Cell:
    """What a cell shows: text, or `html` that is safe already; `value` is what it sorts by."""

    text: str = ""
    value: float | None = None
    html: str = ""


def number(value: float, shown: str | None = None) -> Cell:
    """A number with thousands apart, or as `shown`."""
    return Cell(f"{value:,}" if shown is None else shown, value)


def link(target: str, text: str) -> str:
    """An anchor to a place in the report: `step-3`, or `buffer/NAME`, whose name is quoted."""
    kind, slash, name = target.partition("/")
    address = f"{kind}/{quote(name, safe='')}" if slash else target
    return f'<a href="#{escape(address)}">{escape(text)}</a>'


def table(
    name: str,
    caption: str,
    head: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    keys: Sequence[str] = (),
    searched: bool = True,
) -> str:
    """A table in a box that scrolls; `keys` are what links to its rows are called."""
    rows = list(rows)
    heads = ""
    for column, title in enumerate(head):
        numeric = bool(rows) and rows[-1][column].value is not None
        kind = ' class="number"' if numeric else ""
        heads += (
            f'<th scope="col"{kind} aria-sort="none">'
            f'<button type="button">{escape(title)}</button></th>'
        )
    body = []
    for position, row in enumerate(rows):
        key = f' data-key="{escape(keys[position])}" tabindex="-1"' if keys else ""
        body.append(f"<tr{key}>{''.join(map(_cell, row))}</tr>")
    search = (
        f'<label class="search">Only rows with <input type="search" data-rows="{name}"></label>'
        if searched
        else ""
    )
    return (
        f'{search}<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}">'
        f'<table id="{name}"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _cell(cell: Cell) -> str:
    inside = cell.html or escape(cell.text)
    if cell.value is None:
        return f"<td>{inside}</td>"
    return f'<td class="number" data-value="{cell.value!r}">{inside}</td>'


def shown_bytes(size: float) -> str:
    """Bytes as people read them."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:,.2f} {name}"
    return f"{size:,.0f} bytes"


def shown_flops(count: float) -> str:
    """Operations as people read them."""
    for unit, name in ((1e9, "GFLOP"), (1e6, "MFLOP"), (1e3, "kFLOP")):
        if count >= unit:
            return f"{count / unit:,.2f} {name}"
    return f"{count:,.0f} FLOP"


def shown_seconds(seconds: float) -> str:
    """A time as people read it."""
    for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds / 1e-9:.3g} ns"
