"""What verbs print: tables, JSON, errors, warnings, progress; and the files they write."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TextIO

import typer

from graphc.columns import columns
from graphc.error import NetError, NetWarning, visible
from graphc.whole_file import write_whole

if TYPE_CHECKING:
    import numpy as np

_HELD: ContextVar[list[str] | None] = ContextVar("_HELD", default=None)

_STDOUT, _STDERR = 1, 2
CHECK_FAILED = 1
BAD_INPUT = 3
BROKEN_PIPE = 141  # what the shell says of others that write where nobody reads any more


@contextlib.contextmanager
def reporting(as_json: bool) -> Iterator[None]:
    """Errors and warnings of the block go to stderr; an error ends the command with code 3."""
    with _holding_notes(as_json), warnings.catch_warnings():
        warnings.simplefilter("always", NetWarning)
        warnings.showwarning = _once_each(warnings.showwarning)
        try:
            yield
        except NetError as error:
            print_error(error, as_json)
            raise typer.Exit(BAD_INPUT) from None
        except MemoryError as error:
            print_error(NetError(f"there is not enough memory: {error}"), as_json)
            raise typer.Exit(BAD_INPUT) from None


@contextlib.contextmanager
def _holding_notes(as_json: bool) -> Iterator[None]:
    """With `as_json`, notes wait for the end, where one JSON text holds them; an error's, too."""
    _HELD.set([] if as_json else None)
    try:
        yield
    except typer.BadParameter:  # told in JSON, too, by `graphc.cli.usage`
        _HELD.set(None)
        raise
    finally:
        held = _HELD.get()
        _HELD.set(None)
        if held:
            note(json.dumps({"notes": held}, indent=2))


def _once_each(others: Callable[..., None]) -> Callable[..., None]:
    """A `warnings.showwarning` that prints each of our warnings once."""
    seen: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if not issubclass(category, NetWarning):
            others(message, category, *rest, **more)
            return
        text = str(message)
        if text not in seen:
            seen.add(text)
            note(text if "warning: " in text else f"warning: {text}")

    return show


def print_error(error: NetError, as_json: bool) -> None:
    """An error on stderr, as text or as JSON."""
    if as_json:
        found = [diagnostic.as_json() for diagnostic in error.diagnostics]
        told = {"error": str(error), "diagnostics": found, "notes": _HELD.get() or []}
        _HELD.set(None)
        note(json.dumps(told, indent=2))
        return
    if len(error.diagnostics) > 1:
        note("\n".join(map(str, error.diagnostics)))
        return
    text = str(error)
    note(text if "error: " in text else f"error: {text}")


def say(text: str, end: str = "\n", colour: str | None = None, bold: bool = False) -> None:
    """Part of the result: stdout. What would steer a terminal is escaped, tabs and lines stay."""
    shown = visible(text, ends="\n\t")
    styled = typer.style(shown, fg=colour, bold=bold) if colour or bold else shown
    _put(styled + end)


def note(text: str) -> None:
    """A line beside the result: stderr, or where notes are held."""
    held = _HELD.get()
    if held is None:
        _put(visible(text) + "\n", err=True)
    else:
        held.append(visible(text))


def _put(text: str, err: bool = False) -> None:
    if not err:
        with printing():
            typer.echo(text, nl=False)
        return
    try:
        typer.echo(text, nl=False, err=True)
    except OSError:
        _close(sys.stderr)  # there is no one left to tell; the exit code still does


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """Where the block cannot print (a full disk, a reader that left), end with the code for it."""
    try:
        yield
    except OSError as error:
        _close(sys.stdout)
        if error.errno == errno.EPIPE:
            raise typer.Exit(BROKEN_PIPE) from None
        refused = NetError(f"cannot write the result: {error.strerror}")
        print_error(refused, as_json=_HELD.get() is not None)
        raise typer.Exit(BAD_INPUT) from None


def _close(stream: TextIO) -> None:
    """Let what a stream still holds go nowhere: Python would try again at its end, and complain."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def open_streams() -> None:
    """Streams that were closed before we began (`>&-`) lead nowhere, as others would to no file.

    Python has None in their place, and the next file to be opened would get their number: what a
    library prints would go into it.
    """
    while (nowhere := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        pass
    os.close(nowhere)
    sys.stdout = sys.stdout or os.fdopen(_STDOUT, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(_STDERR, "w", closefd=False)


def print_json(data: Any) -> None:
    """The result as JSON on stdout; numbers that JSON lacks (inf, nan) are null."""
    say(json.dumps(_finite(data), indent=2, allow_nan=False))


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """Rows under a head, columns as wide as needed; those of `numbers` are set to the right."""
    return "\n".join(columns([head, *rows], numbers))


def shown_seconds(seconds: float) -> str:
    """A time as people read it."""
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.1f} s"


@contextlib.contextmanager
def busy(what: str) -> Iterator[None]:
    """A moving line on a terminal's stderr while the block runs."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(f"{what} ..."):
        yield


@contextlib.contextmanager
def progress(what: str) -> Iterator[Callable[[int, int, str], None]]:
    """A bar on a terminal's stderr; call what it gives with (done, all, what is done now)."""
    if not sys.stderr.isatty():
        yield lambda done, total, label: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what)

        def step(done: int, total: int, label: str) -> None:
            bar.update(task, completed=done, total=total, description=f"{what} {label}")

        yield step


def need_writable(path: str | None) -> None:
    """Raise NetError before long work whose result could not be written."""
    if path is None:
        return
    if _is_device(path):
        return
    folder = Path(path).absolute().parent
    if not folder.is_dir():
        raise NetError(f"cannot write '{path}': there is no folder '{folder}'")
    if Path(path).is_dir():
        raise NetError(f"cannot write '{path}': it is a folder")
    if not os.access(folder, os.W_OK):
        raise NetError(f"cannot write '{path}': the folder '{folder}' is not writable")


def _is_device(path: str) -> bool:
    """Whether something is there that can be written to and is neither a file nor a folder."""
    place = Path(path)
    return place.exists() and not (place.is_file() or place.is_dir()) and os.access(place, os.W_OK)


def need_array_path(path: str | None, count: int) -> None:
    """Raise NetError where `count` arrays cannot go into a file of that name."""
    if path is None:
        return
    need_writable(path)
    suffix = Path(path).suffix
    if suffix not in (".npy", ".npz"):
        raise NetError(f"the result is written as .npy or .npz, and '{path}' is neither")
    if suffix == ".npy" and count != 1:
        raise NetError(f"'{path}' would hold one array, there are {count}; name a .npz")


def write_arrays(path: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a .npz, or the one array as .npy; whole or not at all."""
    import numpy as np

    def fill(file: IO[bytes]) -> None:
        if path.endswith(".npy"):
            np.save(file, next(iter(arrays.values())))
        else:
            _write_npz(file, arrays)

    write_whole(path, fill)


def _write_npz(file: IO[bytes], arrays: Mapping[str, np.ndarray]) -> None:
    """As numpy.savez, which takes names as keywords and so refuses the name `file`."""
    import zipfile

    import numpy as np

    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
