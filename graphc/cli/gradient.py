"""`graphc grad`: gradients, as arrays and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphc.cli.options import (
    InputOptions,
    LibrariesName,
    LibrariesOption,
    Mode,
    NetOptions,
    RunTargetName,
    RunTargetOption,
)
from graphc.cli.report import (
    busy,
    need_array_path,
    need_writable,
    print_json,
    say,
    write_arrays,
)
from graphc.cli.run import OUTPUT, array_table, need_all_inputs, summary, times
from graphc.cli.session import Results, Session, open_session, pairs
from graphc.error import NetError
from graphc.whole_file import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from PIL import Image


def grad(
    options: NetOptions,
    inputs: InputOptions,
    output: Annotated[str | None, OUTPUT] = None,
    picture: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Write the gradient as a picture: each pixel's largest |gradient| over the"
            " channels, the brightest white.",
        ),
    ] = None,
    picture_of: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Whose gradient; else that of the first input in --wrt."),
    ] = None,
    beside: Annotated[bool, typer.Option("--beside", help="Put the photo beside it.")] = False,
    target: RunTargetOption = RunTargetName.cpu,
    libraries: LibrariesOption = LibrariesName.auto,
) -> None:
    """Run forward and backward: gradients.

    They are those of --wrt, else of the inputs by Caffe's rule, else of the parameters.
    """
    from dataclasses import replace

    from graphc.cli.values import read_diffs, read_inputs

    if options.mode is Mode.infer:
        raise typer.BadParameter("infer has no gradients", param_hint="--mode")
    options = replace(options, mode=options.mode or Mode.grad)
    sources = pairs("--input", inputs.input)
    net = open_session(options, sources, target.value, libraries.value)
    need_all_inputs(net, sources)
    given, wrt = net.targets()
    need_array_path(output, len(wrt))
    shown = _pictured(net, wrt, picture_of) if picture else ""
    if picture:
        from graphc.picture import picture_format

        need_writable(picture)
        picture_format(picture)
    diffs = pairs("--diff", options.diff)
    seeds = read_diffs(net.graph, diffs, net.axes)
    ones = {name: "fill:1" for name in given if name not in seeds}
    seeds |= read_diffs(net.graph, ones, net.axes)
    arrays, photos = read_inputs(net.graph, sources, inputs, net.axes)
    with busy("compiling"):
        found = net.gradients(arrays, seeds, wrt)
    if output:
        write_arrays(output, found.arrays)
    if picture:
        _write_picture(net, found.arrays[shown], photos if beside else {}, picture)
    if options.json:
        print_json({**_as_json(net, found), "written": output, "picture": picture})
        return
    say(array_table("gradient of", found.arrays))
    if found.loss is not None:
        say(f"loss {found.loss:.6g}")
    say(times(found.seconds))


def _as_json(net: Session, found: Results) -> dict[str, Any]:
    return {
        "gradients": {name: summary(array, net.axes) for name, array in found.arrays.items()},
        "outputs": {name: summary(array, net.axes) for name, array in found.outputs.items()},
        "loss": found.loss,
        "seconds": found.seconds,
    }


def _pictured(net: Session, wrt: list[str], chosen: str | None) -> str:
    """Whose gradient becomes the picture."""
    if chosen is not None:
        if chosen not in wrt:
            raise NetError(f"--picture-of '{chosen}' is not among the gradients {', '.join(wrt)}")
        return chosen
    return next((name for name in wrt if name in net.inputs), wrt[0])


def _write_picture(
    net: Session, gradient: np.ndarray, photos: Mapping[str, Image.Image], path: str
) -> None:
    """The saliency map, at least as large as the picture that went in."""
    from graphc.picture import picture_format, saliency_picture, save_picture

    shapes = [net.graph.values[name].shape for name in net.inputs]
    sides = [shape[:1:-1] if net.axes.turned else shape[2:] for shape in shapes if len(shape) == 4]
    largest = max(sides, default=None)
    gradient = net.axes.images(gradient)
    size = (int(largest[0]), int(largest[1])) if largest and gradient.ndim == 4 else None
    photo = next(iter(photos.values()), None)
    rows = [photo] * gradient.shape[0] if photo is not None else []
    sheet = saliency_picture(gradient, size, rows)
    write_whole(path, lambda file: save_picture(sheet, file, picture_format(Path(path))))
