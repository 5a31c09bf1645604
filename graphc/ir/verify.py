"""What must hold for every Graph. Run between passes: a wrong rewrite is caught where it is."""

from __future__ import annotations

from graphc.error import NetError, need
from graphc.ir.graph import Graph, Node, Value


def verify(graph: Graph) -> None:
    """Raise NetError with one sentence on the first thing that is wrong.

    - Single assignment: a value is an input (it has a role) or the output of exactly one node.
    - Order: a node stands after the nodes that make its inputs.
    - Types: what `infer` says of the inputs is what the outputs have.
    - Names: each value is found under its name; producers and readers, and the networkx graph
      where there is one, say the same as nodes.
    - Ends: outputs, updates, blobs and losses are values of this graph; an update has the type of
      the state it replaces; constants have data of their type.
    """
    made = _verify_inputs(graph)
    for node in graph.nodes:
        _verify_node(graph, node, made)
        made.update(node.outputs)
    reads = 0
    for value in graph.values.values():
        reads += len(graph.readers(value))
        if value not in made:
            raise NetError(f"{value} is neither an input nor made by a node")
    need(
        reads == sum(len(node.inputs) for node in graph.nodes),
        "a value is read by something that is no node of the graph",
    )
    if graph.has_net:
        _verify_net(graph)
    _verify_ends(graph)


def _verify_inputs(graph: Graph) -> set[Value]:
    made: set[Value] = set()
    for name, value in graph.values.items():
        if value.name != name:
            raise NetError(f"{value} is entered under the name '{name}'")
        if value.graph is not graph:
            raise NetError(f"{value} belongs to another graph")
        if value.role is None:
            continue
        made.add(value)
        need(graph.producer(value) is None, f"input {value} is made by a node")
        if value.role == "constant":
            data = graph.constants.get(name)
            need(data is not None, f"constant {value} has no data")
            assert data is not None
            fits = data.shape == value.shape and data.dtype == value.type.dtype
            need(fits, f"the data of constant {value} is not {value.type}")
    return made


def _verify_node(graph: Graph, node: Node, made: set[Value]) -> None:
    """Sentences are written only for what is wrong: a deep net has thousands of nodes."""
    for position, value in enumerate(node.inputs):
        if value.graph is not graph:
            raise _wrong(node, f"reads {value} of another graph")
        if value not in made:
            raise _wrong(node, f"reads {value} before it is made")
        if (node, position) not in graph.readers(value):
            raise _wrong(node, f"reads {value} but is not among its readers")
    for value in node.outputs:
        if graph.values.get(value.name) is not value:
            raise _wrong(node, "makes a value the graph does not know")
        if value.role is not None:
            raise _wrong(node, f"makes {value}, which is an input")
        if value in made:
            raise NetError(f"{value} is made twice")
        if graph.producer(value) is not node:
            raise _wrong(node, f"makes {value} but is not its producer")
    if not graph.unchecked:
        _verify_types(node)


def _verify_net(graph: Graph) -> None:
    for node in graph.nodes:
        for position, value in enumerate(node.inputs):
            if not graph.net.has_edge(value, node, key=position):
                raise _wrong(node, f"reads {value} but no edge says so")
        for position, value in enumerate(node.outputs):
            if not graph.net.has_edge(node, value, key=position):
                raise _wrong(node, f"makes {value} but no edge says so")
        edges = graph.net.in_degree(node), graph.net.out_degree(node)
        if edges != (len(node.inputs), len(node.outputs)):
            raise _wrong(node, "has edges beyond its inputs and outputs")
    need(
        len(graph.net) == len(graph.values) + len(graph.nodes),
        "the networkx graph holds something that is neither a value nor a node of the graph",
    )


def _wrong(node: Node, sentence: str) -> NetError:
    made = ", ".join(map(str, node.outputs)) or "nothing"
    return NetError(f"node '{node.op}' that makes {made} {sentence}")


def _verify_types(node: Node) -> None:
    try:
        types = node.op.infer(*(value.type for value in node.inputs))
    except NetError as error:
        raise _wrong(node, f"refuses its inputs: {error}") from None
    types = types if isinstance(types, tuple) else (types,)
    if tuple(value.type for value in node.outputs) != types:
        wanted = ", ".join(map(str, types))
        found = ", ".join(str(value.type) for value in node.outputs)
        raise _wrong(node, f"should have the types {wanted}, not {found}")


def _verify_ends(graph: Graph) -> None:
    ends = [(f"output '{name}'", value) for name, value in graph.outputs.items()]
    ends += [(f"update '{name}'", value) for name, value in graph.updates.items()]
    ends += [(f"blob '{name}'", value) for name, value in graph.blobs.items()]
    ends += [("a loss", value) for value, _ in graph.losses]
    for what, value in ends:
        fits = graph.values.get(value.name) is value
        need(fits, f"{what} is {value}, which is not of this graph")
    for name, value in graph.updates.items():
        state = graph.values.get(name)
        need(
            state is not None and state.role == "state", f"update '{name}' has no state to replace"
        )
        assert state is not None
        need(state.type == value.type, f"update '{name}' makes {value.type} of {state.type}")
