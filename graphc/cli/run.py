"""`graphc run`: the forward pass, and its outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphc.cli.options import (
    InputOptions,
    LibrariesName,
    LibrariesOption,
    NetOptions,
    RunTargetName,
    RunTargetOption,
)
from graphc.cli.report import (
    busy,
    need_array_path,
    print_json,
    say,
    shown_seconds,
    table,
    write_arrays,
)
from graphc.cli.session import Session, open_session, pairs
from graphc.error import NetError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy as np

    from graphc.cli.axes import Axes

OUTPUT = typer.Option("--output", "-o", metavar="PATH", help="Write a .npz, or one array as .npy.")
_BEST = 5


def run(
    options: NetOptions,
    inputs: InputOptions,
    output: Annotated[str | None, OUTPUT] = None,
    target: RunTargetOption = RunTargetName.cpu,
    libraries: LibrariesOption = LibrariesName.auto,
) -> None:
    """Run forward and print the outputs.

    Blobs named with --keep are printed and written too.
    """
    from graphc.cli.values import read_inputs

    sources = pairs("--input", inputs.input)
    net = open_session(options, sources, target.value, libraries.value)
    need_all_inputs(net, sources)
    kept = [name for name in options.keep or () if not name.endswith(".diff")]
    wanted = list(dict.fromkeys([*net.outputs, *kept]))
    need_array_path(output, len(wanted))
    arrays, _ = read_inputs(net.graph, sources, inputs, net.axes)
    with busy("compiling"):
        found = net.forward(arrays, kept)
    results, seconds, loss = found.arrays, found.seconds, found.loss
    if output:
        write_arrays(output, {name: results[name] for name in wanted})
    if options.json:
        print_json(
            {
                "outputs": {name: summary(results[name], net.axes) for name in wanted},
                "loss": loss,
                "seconds": seconds,
                "written": output,
            }
        )
        return
    say(array_table("output", {name: results[name] for name in wanted}))
    for name in net.outputs:
        print_best(name, results[name], net.axes)
    if loss is not None:
        say(f"loss {loss:.6g}")
    say(times(seconds))


def need_all_inputs(net: Session, sources: Mapping[str, str]) -> None:
    """Raise NetError unless every net input has a value, given or from a data layer."""
    missing = [name for name in net.inputs if name not in sources and name not in net.filled]
    if missing:
        raise NetError(
            f"no value is given for {named(missing)}; add"
            f" {' '.join(f'--input {name}=FILE' for name in missing)}"
            " (a .npy, a picture, random:SEED or fill:V)"
        )


def named(inputs: Iterable[str]) -> str:
    """input 'data', or inputs 'data', 'label'."""
    quoted = [f"'{name}'" for name in inputs]
    return f"input{'s' * (len(quoted) > 1)} {', '.join(quoted)}"


def summary(array: np.ndarray, axes: Axes) -> dict[str, Any]:
    """Shape, extremes and, where it is one row of scores, the best of them, as plain data."""
    data: dict[str, Any] = {"shape": list(array.shape), "dtype": str(array.dtype)}
    if array.size:
        data |= {"min": float(array.min()), "max": float(array.max())}
    row = best(array, axes)
    if row:
        data["top"] = [{"class": index, "value": value} for index, value in row]
    return data


def best(array: np.ndarray, axes: Axes) -> list[tuple[int, float]]:
    """(class, score) of the highest five where there is one row of several scores.

    Classes count from 0.
    """
    array = axes.images(array)
    if array.ndim < 2 or array.size < 2 or array.shape[1] != array.size:
        return []
    row = array.reshape(-1)
    order = (-row).argsort(kind="stable")[:_BEST]
    return [(int(index), float(row[index])) for index in order]


def array_table(head: str, arrays: Mapping[str, np.ndarray]) -> str:
    """One line an array: name, shape, extremes."""
    rows = []
    for name, array in arrays.items():
        low, high = (f"{array.min():.6g}", f"{array.max():.6g}") if array.size else ("", "")
        rows.append((name, " x ".join(map(str, array.shape)) or "scalar", low, high))
    return table((head, "shape", "min", "max"), rows, numbers=(2, 3))


def print_best(name: str, array: np.ndarray, axes: Axes) -> None:
    """The best classes of a row of scores, if it is one."""
    row = best(array, axes)
    if row:
        shown = ", ".join(f"{index} ({value:.6g})" for index, value in row)
        say(f"highest of {name}: {shown}")


def times(seconds: Mapping[str, float]) -> str:
    """How long it took to compile and to run."""
    return (
        f"compiled in {shown_seconds(seconds['compile'])}, ran in {shown_seconds(seconds['run'])}"
    )
