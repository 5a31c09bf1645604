"""A Graph's text parses back to an equal graph; what is wrong in a text is shown with a caret."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphc.ops  # noqa: F401  (enters all operators in the table)
from graphc.error import NetError
from graphc.ir import printer
from graphc.ir.core.axes import Broadcast, Sum, Transpose
from graphc.ir.core.elementwise import Add, Copy, Multiply, Times
from graphc.ir.core.fill import Fill, OneHot
from graphc.ir.core.view import View
from graphc.ir.graph import Graph, Origin, Value
from graphc.ir.printer import print_graph, print_op
from graphc.ir.reader import parse_graph, parse_op
from graphc.ir.reference import evaluate
from graphc.ir.types import TensorType
from graphc.ir.verify import verify
from graphc.source import Source

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=6)


def summary(graph: Graph) -> object:
    """Everything a graph holds but remarks and places, as plain data."""

    def table(entries: dict[str, Value]) -> dict[str, str]:
        return {name: value.name for name, value in entries.items()}

    nodes = [
        (
            node.op,
            [v.name for v in node.inputs],
            [(v.name, v.type) for v in node.outputs],
            (node.origin.layer, node.origin.kind, node.origin.backward),
        )
        for node in graph.nodes
    ]
    return (
        graph.name,
        [(v.name, v.type, v.role) for v in graph.inputs()],
        nodes,
        table(graph.outputs),
        table(graph.updates),
        table(graph.blobs),
        [(v.name, weight) for v, weight in graph.losses],
        graph.kept,
        {name: (array.dtype, array.tolist()) for name, array in graph.constants.items()},
    )


def small_graph() -> Graph:
    graph = Graph("small")
    x = graph.input("data", TensorType("float32", (2, 3)))
    w = graph.input("ip/0", TensorType("float32", (3,)), "parameter")
    graph.constants["center"] = np.array([0.5, -0.0, np.inf], np.float32)
    c = graph.input("center", TensorType("float32", (3,)), "constant")
    n = graph.input("count", TensorType("int64", ()), "state")
    graph.origin = Origin("scale layer", "Scale")
    y = x * Broadcast((2, 3), (0,))(w + c)
    graph.blobs = {"y": y, "odd name: 1": y}
    graph.outputs["y"] = y
    graph.updates["count"] = n + 1
    graph.losses.append((Sum((0, 1))(y), 0.25))
    graph.kept = {"y"}
    return graph


def test_small_graph_round_trips():
    graph = small_graph()
    again = parse_graph(print_graph(graph))
    verify(again)
    assert summary(again) == summary(graph)


def test_long_constants_round_trip():
    graph = Graph()
    data = np.random.default_rng(1).standard_normal((9, 11)).astype(np.float32)
    graph.constants["matrix"] = data
    graph.outputs["y"] = graph.input("matrix", TensorType("float32", (9, 11)), "constant") * 2.0
    again = parse_graph(print_graph(graph))
    assert again.constants["matrix"].tobytes() == data.tobytes()
    assert np.array_equal(evaluate(again, {})["y"], data * 2)


def grow(draw: st.DrawFn, graph: Graph, pool: list[Value]) -> Value:
    """Add one random core operator on values of the pool."""
    x = draw(st.sampled_from(pool))
    same = [v for v in pool if v.type == x.type]
    number = draw(st.floats(width=32))
    choices = [
        lambda: Add()(x, draw(st.sampled_from(same))),
        lambda: Multiply()(x, draw(st.sampled_from(same))),
        lambda: Times(number)(x),
        lambda: Transpose((1, 0))(x),
        lambda: View(x.shape[::-1])(x),
        lambda: graph.apply(Fill(x.type.dtype, x.shape, number), names=[draw(NAMES)])[0],
        lambda: Copy()(x),
    ]
    return draw(st.sampled_from(choices))()


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Random graphs of core operators on [2, 3] and [3, 2] values."""
    graph = Graph(draw(NAMES))
    dtype = draw(st.sampled_from(["float32", "float64"]))
    for name in draw(st.lists(NAMES, min_size=1, max_size=3, unique=True)):
        graph.input(name, TensorType(dtype, (2, 3)), draw(st.sampled_from(["input", "parameter"])))
    pool = graph.inputs()
    for _ in range(draw(st.integers(0, 8))):
        graph.origin = Origin(draw(NAMES), draw(NAMES), backward=draw(st.booleans()))
        pool.append(grow(draw, graph, pool))
    graph.losses = [(v, draw(st.floats(allow_nan=False))) for v in pool[-1:]]
    graph.outputs = {draw(NAMES): pool[-1]}
    graph.blobs = {draw(NAMES): v for v in pool}
    graph.kept = set(draw(st.lists(st.sampled_from([*graph.blobs]), max_size=2)))
    return graph


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_random_graphs_round_trip(graph: Graph):
    text = print_graph(graph)
    again = parse_graph(text)
    verify(again)
    # nan fields differ from themselves, so those graphs are compared as text only.
    assert print_graph(again) == text
    if "=nan" not in text:
        assert summary(again) == summary(graph)


@pytest.mark.parametrize(
    "op", [Sum((0, 2), keep=True), Sum((1,)), View(()), OneHot(1, 5, "float32"), Times(1e-300)]
)
def test_operators_round_trip(op):
    assert parse_op(print_op(op)) == op


HEAD = "input %data: float32[2, 3]\n"


@pytest.mark.parametrize(
    ("line", "message", "place"),
    [
        ("%y: float32[2, 3] = coppy %data", "there is no operator 'coppy'", (2, 21)),
        ("%y: float32[2, 3] = copy %dta", "there is no value %dta", (2, 26)),
        ("%y: float32[3, 2] = copy %data", "%y is float32[2, 3], not float32[3, 2]", (2, 1)),
        ("%y: float32[3, 3] = view(shape=(3, 3)) %data", "has 6 elements", (2, 21)),
        (
            "%y: float32[2, 3] = times(by=2.0) %data",
            "no field 'by'; its fields are factor",
            (2, 21),
        ),
        ("%y: float32[2, 3] = times(factor=two) %data", "'two' is no number", (2, 34)),
        ("%data: float32[2, 3] = copy %data", "two values %data", (2, 1)),
        ("%y float32[2, 3] = copy %data", "expected ':'", (2, 4)),
        ("%y: float32[2, 3] = copy %data %data", "expected the end of the line", (2, 32)),
        ("%y: float99[2, 3] = copy %data", "unknown element type 'float99'", (2, 5)),
        ("output y = data", "expected a value such as %data, found 'data'", (2, 12)),
        ("loss %data * heavy", "'heavy' is no number", (2, 14)),
        ("constant %c: float32[2] = [1.0]", "needs 2 numbers, given are 1", (2, 27)),
        ("input %z: float32[", "expected a type", (2, 11)),
        ("input %z: float32[2, -3]", "is no type such as", (2, 11)),
        ("input %z: float32[" + 5000 * "9" + "]", "too large", (2, 11)),
        ("%y: float32[2, 3] = add %data", "takes 2 inputs (a and b), not 1", (2, 21)),
        ("%y: float32[2, 3] = copy %data, %data", "takes 1 input (x), not 2", (2, 21)),
        ("%y: float32[2, 3] = copy & %data", "end of the line, found '&'", (2, 26)),
        ("%y: float32[2, 3] = sum(axes=(0,), axes=(1,)) %data", "'axes' is given twice", (2, 36)),
        ("%y: float32[2, 3] = sum(axes=" + 5000 * "(", "8 tuples in each other", (2, 38)),
        ("%y: float32[2, 3] = times(factor=" + 5000 * "9" + ") %data", "of 5000", (2, 34)),
        ('constant %c: float32[2] = [1.0, "a"]', "of a constant are numbers", (2, 33)),
        ("update data = %data", "there is no state %data", (2, 8)),
        ("state %s: int64[]\nupdate s = %data", "state %s is int64[], not", (3, 8)),
        ('graph "a"\ngraph "b"', "a second line 'graph'", (3, 7)),
        ("keep dta\nblob data = %data", "there is no blob 'dta'", (2, 6)),
        ("%b: float32[2, 3] = copy %c\n%c: float32[2, 3] = copy %data", "line 3 makes", (2, 26)),
    ],
)
def test_errors_have_place_and_caret(line: str, message: str, place: tuple[int, int]):
    with pytest.raises(NetError) as caught:
        parse_graph(HEAD + line + "\n", "net.graph")
    text = str(caught.value)
    assert message in text
    assert text.startswith("net.graph:{}:{}: error".format(*place))
    assert "^" in text


def test_a_near_name_is_suggested():
    with pytest.raises(NetError, match="did you mean 'data'"):
        parse_graph(HEAD + "output y = %dat\n")


def test_all_mistakes_are_told_at_once_and_none_that_follow_from_others() -> None:
    text = (
        HEAD
        + "%a: float32[2, 3] = coppy %data\n"
        + "%b: float32[2, 3] = copy %a\n"
        + "%c: float32[2, 3] = add %data, %dta\n"
        + "%d: float32[2, 3] = times(facto=2.0) %data\n"
        + '%e: float32[2, 3] = times(factor="2") %data\n'
        + "otput c = %data\n"
        + "output y = %a\n"
    )
    with pytest.raises(NetError) as caught:
        parse_graph(text, "net.ir")
    told = [(d.span.line, d.message, d.hint) for d in caught.value.diagnostics if d.span]
    assert told == [
        (2, "there is no operator 'coppy'", "did you mean 'copy'?"),
        (4, "there is no value %dta so far", "did you mean 'data'?"),
        (
            5,
            "'times' has no field 'facto'; its fields are factor",
            "did you mean 'factor'?",
        ),
        (6, "field 'factor' of 'times' is of type float, not '2'", ""),
        (7, "there is no operator 'otput'", "did you mean 'output'?"),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "constant %c: float32[2] = hex:abc",
        "constant %c: float32[2] = hex:zz00000000000000",
        'constant %c: float32[2] = ["a", 1.0]',
        "constant %c: int32[1] = [99999999999999999999]",
        "%y: float32[2, 3] = conv(strides=7, pads=1) %data, %data",
        "%y: float32[2, 3] = conv %data, %data",
        "%y: float32[2, 3] = softmax(axis=99) %data",
        "%y: float32[2, 3] = transpose(order=(5, 9)) %data",
        "%y: float32[2, 3] = concat(axis=-7) %data, %data",
        '%y: float32[2, 3] = copy %"',
        '%"\\q": float32[2, 3] = copy %data',
        "graph",
        "loss %data * (1,)",
    ],
)
def test_odd_lines_are_refused_with_a_place(line: str) -> None:
    with pytest.raises(NetError) as caught:
        parse_graph(f"{HEAD}{line}\n", "net.ir")
    assert caught.value.diagnostics
    assert all(d.span is not None and d.span.line == 2 for d in caught.value.diagnostics)


def test_a_text_cut_anywhere_is_read_or_refused_with_a_place() -> None:
    text = print_graph(small_graph())
    refused = 0
    for length in range(len(text)):
        try:
            parse_graph(text[:length], "net.ir")
        except NetError as error:
            assert error.diagnostics
            assert all(d.span is not None for d in error.diagnostics)
            refused += 1
    assert refused > len(text) / 2


def test_the_example_of_the_grammar_is_read() -> None:
    example = (printer.__doc__ or "").split("\n\n")[1]
    graph = parse_graph("\n".join(line.strip() for line in example.splitlines()))
    verify(graph)
    assert set(graph.outputs) == {"ip"}


def test_a_text_with_a_letter_changed_is_read_or_refused() -> None:
    rng = np.random.default_rng(0)
    base = HEAD + "%y: float32[2, 3] = softmax(axis=1) %data @ a Softmax\noutput y = %y\n"
    for _ in range(400):
        letters = list(base)
        for place in rng.integers(0, len(letters), 2):
            letters[place] = str(rng.choice(list('%":=()[],@*# \n1a\\')))
        try:
            parse_graph("".join(letters))
        except NetError as error:
            assert error.diagnostics


@pytest.mark.parametrize("place", [0, 700, 2990])
def test_a_part_of_a_long_line_is_shown(place: int) -> None:
    line = "z" * place + "!" + "z" * (3000 - place)
    shown = Source("net.ir", f"a\n{line}\nb").span(2 + place, 3 + place).excerpt()
    text, caret = shown.splitlines()
    assert text[caret.index("^")] == "!"
    assert len(text) < 140
    assert text.startswith("    ...") == (place > 60)
    assert text.endswith("...") == (place < 2940)


def test_what_cannot_be_printed_does_not_reach_the_terminal() -> None:
    with pytest.raises(NetError) as caught:
        parse_graph(HEAD + "%y: float32[2, 3] = copy \x1b[2J %data\n")
    assert "\x1b" not in str(caught.value)
    assert r"found '\x1b'" in str(caught.value)
