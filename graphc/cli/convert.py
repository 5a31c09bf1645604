"""`graphc convert` and `graphc upgrade`: files of Caffe's in other forms."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from graphc.cli.options import JsonOption
from graphc.cli.report import need_writable, note, print_json, say, table


class LayoutName(StrEnum):
    """The layouts a .caffemodel is written in."""

    current = "current"
    v1 = "v1"


def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="The file to read.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="The file to write.")],
    net: Annotated[
        str | None,
        typer.Option(
            metavar="NET",
            help="A definition that the weights must fit; old files get its shapes.",
        ),
    ] = None,
    layout: Annotated[
        LayoutName,
        typer.Option(help="Of the .caffemodel written; v1 is what Caffe before 2015 reads."),
    ] = LayoutName.current,
    json: JsonOption = False,
) -> None:
    """Turn files of weights or arrays into each other.

    A .caffemodel and a .caffemodel.h5, either way; a .binaryproto and a .npy, either way. A
    .caffemodel of any of Caffe's layouts is read, and the one of --layout written: converting a
    .caffemodel to another brings it up to date, or back.
    """
    from graphc.weight_files import convert as convert_file

    need_writable(target)
    made = convert_file(source, target, net, layout.value)
    if json:
        print_json(
            {
                "source": source,
                "written": target,
                "shapes": {name: list(shape) for name, shape in made.shapes.items()},
            }
        )
        return
    rows = [(name, _shown(shape)) for name, shape in made.shapes.items()]
    say(table(("parameter", "shape"), rows))
    say(f"{target}: {made.numbers:,} numbers")


def upgrade(
    net: Annotated[
        str, typer.Argument(metavar="NET", help="A definition of a net, or a .caffemodel.")
    ],
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="OUT", help="The file to write; else printed."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Print a net definition of an old format in the current one.

    The text is written anew from what the definition says: comments are lost. A .caffemodel of an
    old layout is written in the current one, to the file of --output.
    """
    if net.endswith(".caffemodel"):
        if not output:
            raise typer.BadParameter("weights are not printed; name a file", param_hint="--output")
        convert(net, output, json=json)
        return
    from graphc.frontends.caffe.prototxt import read_source
    from graphc.frontends.caffe.writer import upgraded_text
    from graphc.whole_file import write_parts

    need_writable(output)
    source = read_source(net)
    text = upgraded_text(source)
    if _has_comments(source.text):
        note(f"warning: the comments of '{net}' are lost")
    if output:
        write_parts(output, [text.encode()])
    if json:
        print_json({"net": net, "written": output, "text": None if output else text})
    elif not output:
        say(text, end="")


def _has_comments(text: str) -> bool:
    """Whether a `#` stands outside of quotes."""
    quote = ""
    escaped = False
    for letter in text:
        if quote:
            if (letter == quote and not escaped) or letter == "\n":
                quote = ""
            escaped = letter == "\\" and not escaped
        elif letter in "'\"":
            quote, escaped = letter, False
        elif letter == "#":
            return True
    return False


def _shown(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "scalar"
